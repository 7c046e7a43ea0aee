"""The networks: encoder, predictor, probe heads, and their blocks."""
