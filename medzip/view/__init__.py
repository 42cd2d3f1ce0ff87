"""A page to look at an archive with, for one user on one machine. Not a medical device, not for diagnosis."""
