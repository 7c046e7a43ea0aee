"""Parallel training: the device mesh, the placement of arrays on it, and several hosts."""
