"""What goes wrong with a bucket, in a sentence."""

import contextlib
from collections.abc import Iterator

from echojepa_jax.utils.errors import UserError

_PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}


@contextlib.contextmanager
def explained(name: str, problem: str, shown: str = "") -> Iterator[None]:
    """Turns what a bucket's driver raises into UserError.

    Args:
      name: "gs://...". problem: what does not work, as in "cannot be used". shown: how the error
        calls it; "" = by its name.
    """
    try:
        yield
    except ImportError as error:
        package = _PACKAGES.get(name.partition(":")[0], "a driver of fsspec")
        raise UserError(f"{shown or name} needs one more package, {package}: {error}") from error
    # Every driver has errors of its own.
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:300]
        raise UserError(f"{shown or name} {problem}: {reason}") from error
