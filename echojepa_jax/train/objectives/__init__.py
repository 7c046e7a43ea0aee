"""What a model is trained for: one file for each objective."""
