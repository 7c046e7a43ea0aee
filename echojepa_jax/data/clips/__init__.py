"""Clips: chooses frames and crops of the samples, and builds batches in worker processes."""
