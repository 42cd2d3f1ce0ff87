"""Figures of docs/benchmarks.md: ratios and speeds, never tested against a clock."""
