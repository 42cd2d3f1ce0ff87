"""Encapsulated pixel data (PS3.5 annex A.4): compressed frames, coded as voxels where the very bytes can be made again."""
