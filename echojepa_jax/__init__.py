"""EchoJEPA in JAX: self-supervised pretraining on echocardiography video, for TPU and GPU."""
