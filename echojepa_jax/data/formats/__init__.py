"""Files into frames: one file for each format, and one door to all of them."""
