"""Tables of a method on one's own data: rows trained at an equal budget, and codecs beside them."""
