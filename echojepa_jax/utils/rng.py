"""Derived randomness: every random draw has a name instead of a history.

A generator is a function of a seed and of the names and numbers that identify what is drawn, for
instance `generator(seed, "crop", step, position)`. There is no generator state to save, so a
resumed run, another worker count or another number of hosts draws exactly the same values.
"""

import hashlib
import operator

import numpy as np


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return the generator of `seed` and `names`, the same on every platform and Python version.

    The key is a hash of the values and their types, so `("a", 1)`, `("a1",)` and `("a", "1")` are
    unrelated, and neighbouring steps share no structure. Takes about 10 microseconds. Raises
    TypeError for a name that is neither a string nor an integer.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in (seed, *names):
        if isinstance(name, str):
            encoded = name.encode()
            digest.update(b"s%d:%s" % (len(encoded), encoded))
        else:
            digest.update(b"i%d;" % operator.index(name))
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest.digest(), "little")))
