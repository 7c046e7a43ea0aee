"""Samples into batches of clips: which frames, which part of the picture, by which workers."""
