"""Mutated scans and archives, each in a process whose memory and time are bounded: `python -m benchmarks.fuzz --help`.

Targets: `dicom` and `images` (files of any source: a typed error, or the same bytes back), `container` (archives whose checksums
are good, however their fields lie: a typed error, or the bytes that the file table promises), `deflate` and `columns` (what
deflate streams and joint headers are made of). See docs/security.md for what was run and found.
"""
