"""The embedded data set: simulated beating hearts with known truth."""
