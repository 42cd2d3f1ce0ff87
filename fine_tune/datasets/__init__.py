"""Volumes to train on, and what of them a network sees."""
