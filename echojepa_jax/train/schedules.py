"""Learning rate, weight decay and EMA momentum as functions of the number of updates.

Every schedule is a function of the number of updates, `k`. A JAX array gives a JAX array (inside
the step); a Python number gives double precision (for logs and plots).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Schedule = Callable[[Any], Any]


def _numerics(k: Any) -> Any:
    return jnp if isinstance(k, jax.Array) else np


def warmup_cosine(start: float, peak: float, final: float, warmup: int, total: int) -> Schedule:
    """Linear from `start` to `peak` over `warmup` updates, then cosine to `final` at `total`.

    final == peak gives the echo recipes' constant rate after warm-up.
    """

    def schedule(k: Any) -> Any:
        xp = _numerics(k)
        rising = start + (peak - start) * k / max(1, warmup)
        progress = (k - warmup) / max(1, total - warmup)
        falling = final + (peak - final) * 0.5 * (1.0 + xp.cos(math.pi * progress))
        return xp.where(k < warmup, rising, xp.maximum(falling, final))

    return schedule


def warmup_cosine_from_0(
    start: float, peak: float, final: float, warmup: int, total: int
) -> Schedule:
    """VideoMAE's: as `warmup_cosine`, but counted from 0, and the warm-up ends on the peak.

    Its first update has `start`, its update number `warmup` the peak, and so has the next one.
    `final` may lie above the peak, as in the recipe of EchoMAE.
    """

    def schedule(k: Any) -> Any:
        xp, i = _numerics(k), k - 1
        rising = start + (peak - start) * i / max(1, warmup - 1)
        progress = (i - warmup) / max(1, total - warmup)
        falling = final + (peak - final) * 0.5 * (1.0 + xp.cos(math.pi * progress))
        return xp.where(i < warmup, rising, falling)

    return schedule


def linear(start: float, final: float, total: int) -> Schedule:
    """`start + (final - start) k / total`: the cooldown's learning rate, and the EMA momentum."""

    def schedule(k: Any) -> Any:
        return start + (final - start) * (k / total)

    return schedule


def cosine(start: float, final: float, total: int) -> Schedule:
    """Half a cosine from `start` to `final` over `total` updates: the weight decay."""

    def schedule(k: Any) -> Any:
        return final + (start - final) * 0.5 * (1.0 + _numerics(k).cos(math.pi * (k / total)))

    return schedule
