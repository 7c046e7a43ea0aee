"""Videos through a frozen encoder."""
