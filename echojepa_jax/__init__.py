"""EchoJEPA in JAX: self-supervised pretraining on echocardiography video, for TPU and GPU."""

import os

# Paths in buckets go through fsspec: TensorFlow, which etils would prefer, knows no s3://.
os.environ.setdefault("EPATH_USE_TF", "false")
