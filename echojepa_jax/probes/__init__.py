"""Reading frozen features: how much of the heart they know."""
