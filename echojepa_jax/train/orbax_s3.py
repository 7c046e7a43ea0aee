"""Teaches Orbax to keep checkpoints in s3:// buckets; by itself it supports only gs://.

TensorStore, which writes Orbax's arrays, supports both. In both, a checkpoint is complete when its
last file is written. So s3:// takes Orbax's code for gs://, with another TensorStore driver. The
four names that this replaces are private to Orbax: tests run this against an S3 server.
"""

import functools
import importlib
import os
from typing import Any
from urllib.parse import urlsplit

from echojepa_jax.utils.errors import UserError

_PREFIXES = ("gs://", "s3://")
_MODULES = ("path.gcs_utils", "serialization.tensorstore_utils")  # of orbax.checkpoint._src
_TAUGHT = (("_GCS_PATH_PREFIX", "get_kvstore_for_gcs"), ("_use_gcs_driver", "_normalize_path"))


@functools.cache
def teach_orbax() -> None:
    """Lets Orbax read and write s3:// from here on; further calls change nothing.

    Raises:
      UserError: this version of Orbax lacks the functions to replace.
    """
    try:
        gcs_utils: Any
        tensorstore_utils: Any
        gcs_utils, tensorstore_utils = (
            importlib.import_module(f"orbax.checkpoint._src.{name}") for name in _MODULES
        )
        for module, names in zip((gcs_utils, tensorstore_utils), _TAUGHT, strict=True):
            for name in names:
                getattr(module, name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"the installed version of orbax-checkpoint cannot write to s3:// ({error}): install "
            "0.12.8, or use a workdir in gs:// or on a disk"
        ) from error
    spec_of_gcs = gcs_utils.get_kvstore_for_gcs

    def spec_of_bucket(path: str) -> dict[str, Any]:
        return _spec_of_s3(path) if path.startswith("s3://") else spec_of_gcs(path)

    gcs_utils._GCS_PATH_PREFIX = _PREFIXES
    gcs_utils.get_kvstore_for_gcs = spec_of_bucket
    tensorstore_utils._use_gcs_driver = lambda path: path.startswith(_PREFIXES)
    tensorstore_utils._normalize_path = _normalized


def _spec_of_s3(path: str) -> dict[str, Any]:
    """TensorStore's specification of a folder in a bucket, on the server that s3fs uses."""
    url = urlsplit(path)
    spec: dict[str, Any] = {"driver": "s3", "bucket": url.netloc, "path": url.path.lstrip("/")}
    if server := os.environ.get("AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL")):
        spec["endpoint"] = server
    if region := os.environ.get("AWS_REGION", os.environ.get("AWS_DEFAULT_REGION")):
        spec["aws_region"] = region
    if "AWS_ACCESS_KEY_ID" in os.environ:
        spec["aws_credentials"] = {"type": "environment"}  # else it warns of missing files
    return spec


def _normalized(path: str) -> str:
    bucket, slashes, rest = path.partition("://")
    return f"{bucket}{slashes}{os.path.normpath(rest)}" if slashes else os.path.normpath(path)
