"""Numerical building blocks: attention and the rotary embedding."""
