"""Helpers without knowledge of echocardiography or of the model."""
