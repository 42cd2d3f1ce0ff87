"""Training of medzip's models. It may import everything; nothing under medzip/ imports it."""
