"""Probes: heads that predict labels from an encoder, frozen or fine-tuned with them."""
