"""Teaches Orbax to keep checkpoints in s3:// buckets: of all buckets it knows gs:// alone.

TensorStore, with which it writes arrays, knows both, and what makes a checkpoint whole in the one
(a file that is written last) does so in the other. So s3:// is made to take gs://'s way, with
another driver. Tests run this against an S3 server: Orbax gives no promise for these four names.
"""

import functools
import importlib
import os
from typing import Any
from urllib.parse import urlsplit

from echojepa_jax.utils.errors import UserError

_PREFIXES = ("gs://", "s3://")
_MODULES = ("path.gcs_utils", "serialization.tensorstore_utils")  # of orbax.checkpoint._src
_TAUGHT = (
    ("_GCS_PATH_PREFIX", "get_kvstore_for_gcs"),
    ("_use_gcs_driver", "_normalize_path"),
)


@functools.cache
def teach_orbax() -> None:
    """Lets Orbax read and write s3:// from here on; the second call changes nothing.

    Raises:
      UserError: this version of Orbax is built in another way.
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
    """Where TensorStore finds a folder of a bucket; s3fs asks the same server."""
    url = urlsplit(path)
    spec: dict[str, Any] = {"driver": "s3", "bucket": url.netloc, "path": url.path.lstrip("/")}
    if server := os.environ.get("AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL")):
        spec["endpoint"] = server
    if region := os.environ.get("AWS_REGION", os.environ.get("AWS_DEFAULT_REGION")):
        spec["aws_region"] = region
    if "AWS_ACCESS_KEY_ID" in os.environ:
        spec["aws_credentials"] = {"type": "environment"}  # or it looks for files, and complains
    return spec


def _normalized(path: str) -> str:
    bucket, slashes, rest = path.partition("://")
    return f"{bucket}{slashes}{os.path.normpath(rest)}" if slashes else os.path.normpath(path)
