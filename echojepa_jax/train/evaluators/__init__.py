"""Measures of a model while it trains: one file for each."""
