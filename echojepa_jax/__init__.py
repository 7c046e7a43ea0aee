"""EchoJEPA in JAX: self-supervised pretraining on echocardiography video, for TPU and GPU."""

import os
import sys
from glob import glob

__version__ = "0.2.0.dev0"  # the one place: pyproject.toml reads it from here

# Paths in buckets go through fsspec: TensorFlow, which etils would prefer, knows no s3://.
os.environ.setdefault("EPATH_USE_TF", "false")
# And are listed anew every time: other hosts, and TensorStore, write there as well.
for _driver in ("S3", "GCS"):
    os.environ.setdefault(f"FSSPEC_{_driver}", '{"use_listings_cache": false}')

# Where there is no accelerator at all, JAX need not look for one: with libtpu installed, which
# plans are made with, it would complain at length.
_DEVICES = ("/dev/accel*", "/dev/vfio/*", "/dev/nvidia*", "/dev/kfd", "/dev/dxg")
if sys.platform == "linux" and not any(glob(pattern) for pattern in _DEVICES):
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
