"""Preparation: turns archives into verified, de-identified shards."""
