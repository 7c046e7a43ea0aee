"""Cuts clips into tubelets on TPUs, in one pass over the pixels.

In memory, a tubelet consists of short pieces: 16 pixels of a row, which the compiler would move
from lane to lane one by one. This kernel transposes whole strips of an image instead, so that the
pixels of a row become rows, and reads every 16th row: the same pixel of all tubelets. The features
of a tubelet are therefore ordered by the pixel in its row, and those of one pixel are padded to the
128 lanes of a register. `Order` rearranges the rows of the first layer's kernel in the same way.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from echojepa_jax.ops import tpu_memory

_LANES, _ROWS = 128, 16  # sizes of a register in half precision


class Order(NamedTuple):
    """The order of features: for each pixel of a row, (frame, colour, row), padded with zeros."""

    tubelet: int
    patch: int
    colours: int = 3

    @property
    def together(self) -> int:
        """Number of features of one pixel of a row, without padding."""
        return self.tubelet * self.patch * self.colours

    @property
    def features(self) -> int:
        """Number of features of a tubelet, without padding."""
        return self.patch * self.together

    def arrange(self, kernel: jax.Array) -> jax.Array:
        """Rearranges the rows (frame, row, pixel, colour) of [F, D]; returns [patch * 128, D]."""
        u, p, c = self
        rows = rearrange(kernel, "(u p q c) d -> q (u c p) d", u=u, p=p, q=p, c=c)
        filled = jnp.pad(rows, ((0, 0), (0, _LANES - self.together), (0, 0)))
        return rearrange(filled, "q lanes d -> (q lanes) d")

    def restore(self, kernel: jax.Array) -> jax.Array:
        """The inverse of `arrange`."""
        u, p, c = self
        rows = rearrange(kernel, "(q lanes) d -> q lanes d", q=p)[:, : self.together]
        return rearrange(rows, "q (u c p) d -> (u p q c) d", u=u, p=p, c=c)


def order_of(clips: jax.Array, tubelet: int, patch: int) -> Order | None:
    """The order of features that `tubelets` gives for clips [B, T, H, W, C]; None = it cannot."""
    width, colours = clips.shape[-2:]
    order = Order(tubelet, patch, colours)
    whole = patch % _ROWS == 0 and width % _ROWS == 0
    fits = whole and order.together <= _LANES and tpu_memory.fits(_needed(clips, order))
    return order if fits else None


def _needed(clips: jax.Array, order: Order) -> int:
    """Bytes of vector memory: two clips, two blocks of features, and one clip in float32."""
    _, frames, height, width, colours = clips.shape
    strips = frames // order.tubelet * (height // order.patch)
    clip = frames * colours * height * -(-width // _LANES) * _LANES
    features = strips * (width // order.patch) * _LANES
    return 2 * clips.dtype.itemsize * (clip + features) + 4 * strips * width * _LANES


def tubelets(clips: jax.Array, order: Order, interpret: bool = False) -> jax.Array:
    """Cuts the clips of one device into flattened tubelets, time-major.

    Args:
      clips: [B, T, H, W, C].
      order: from `order_of`.
      interpret: run the kernel's program step by step on any platform, for tests.

    Returns:
      [B, N, patch * 128]; N as in models/vit.py, the features ordered by `order`.
    """
    # Here, because programs without a TPU need `Order` alone, and Pallas takes long to import.
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    batch, frames, height, width, colours = clips.shape
    times, down = frames // order.tubelet, height // order.patch
    count = times * down * (width // order.patch)

    def kernel(clip: Any, out: Any, turned: Any) -> None:
        def strip(time: int, index: Any) -> None:
            rows = pl.ds(pl.multiple_of(index * order.patch, order.patch), order.patch)
            pieces = [
                clip[time * order.tubelet + frame, colour, rows].astype(jnp.float32)
                for frame in range(order.tubelet)
                for colour in range(colours)
            ]
            if order.together < _LANES:
                pieces.append(jnp.zeros((_LANES - order.together, width), jnp.float32))
            start = pl.multiple_of((time * down + index) * width, _ROWS)
            turned[pl.ds(start, width)] = jnp.concatenate(pieces, axis=0).T

        @pl.when(pl.program_id(1) == 0)
        def _() -> None:
            for time in range(times):
                jax.lax.fori_loop(0, down, lambda index, _, time=time: strip(time, index), None)

        pixel = pl.ds(pl.program_id(1), count, stride=order.patch)
        out[...] = turned[pixel].astype(out.dtype)

    call = pl.pallas_call(
        kernel,
        grid=(batch, order.patch),
        in_specs=[
            pl.BlockSpec((None, frames, colours, height, width), lambda b, _: (b, 0, 0, 0, 0))
        ],
        out_specs=pl.BlockSpec((None, count, _LANES), lambda b, pixel: (b, 0, pixel)),
        out_shape=jax.ShapeDtypeStruct((batch, count, order.patch * _LANES), clips.dtype),
        scratch_shapes=[pltpu.VMEM((times * down * width, _LANES), jnp.float32)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"),
            vmem_limit_bytes=tpu_memory.limit(_needed(clips, order)),
        ),
        interpret=interpret,
        name="tubelets",
    )
    # The compiler stores each colour separately anyway, so this does not move data.
    return call(jnp.moveaxis(clips, -1, 2))
