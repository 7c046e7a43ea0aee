"""The evaluation suite: models side by side on many tasks, from features that are made once."""
