"""Archives into verified, de-identified shards."""
