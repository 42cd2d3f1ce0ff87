"""The weights that medzip ships, and where to find them."""
