"""The networks: encoder, predictor, and what they are made of."""
