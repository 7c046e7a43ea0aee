"""Masks: the tokens that the context encoder sees, and those that the predictor predicts."""
