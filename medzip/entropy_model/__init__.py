"""Entropy models: what is known of a voxel before it is decoded, as integer PMFs."""
