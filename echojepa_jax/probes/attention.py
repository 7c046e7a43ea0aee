"""The attention of a probe: which tokens its learned query reads when it predicts.

The attentive head ends in a cross-attention of one query over all tokens. Its weights explain a
prediction more directly than those of the encoder, which knows no task.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from echojepa_jax.features.attention import AttentionMap
from echojepa_jax.features.encode import FrozenEncoder
from echojepa_jax.models.heads import Head
from echojepa_jax.probes.saved import SavedProbe
from echojepa_jax.utils.errors import UserError


def check_attentive(probe: SavedProbe) -> None:
    """Raises UserError unless the head attends to all tokens of a clip."""
    if probe.head.kind != "attentive":
        raise UserError(
            f"the head of this probe is {probe.head.kind}: it reads the mean of all tokens and has "
            "no attention; train one with head.kind=attentive and head.tokens=all"
        )
    if probe.tokens != "all":
        raise UserError(
            f"this probe was trained with head.tokens={probe.tokens}, so its head sees no single "
            "tokens: train one with head.tokens=all"
        )


def probe_maps(
    probe: SavedProbe, encoder: FrozenEncoder, clips: Mapping[str, np.ndarray]
) -> tuple[Any, list[AttentionMap]]:
    """Predicts for an example, and maps the attention of the head, averaged over its heads.

    Args:
      encoder: the one that the probe was trained on.
      clips: by view, uint8 [clips, T, H, W, 3]; some views may be missing. A probe of single videos
        has the view "".

    Returns:
      The prediction, as `Task.decode` gives it, and a map for each clip. With several clips or
      views, 1 is the mean over all of them, or over each of them if they are fused late.

    Raises:
      UserError: see `check_attentive`.
    """
    check_attentive(probe)
    views = probe.views or ("",)
    tokens = {view: encoder.encode_arrays(some) for view, some in clips.items()}
    blank = np.zeros_like(next(iter(tokens.values())))
    together = np.concatenate([tokens.get(view, blank) for view in views])
    present = np.repeat([view in tokens for view in views], probe.clips)
    out, found = head_attention(probe.head, probe.params, together[None], present[None])
    several = len(present) > 1
    maps = []
    for slot in np.flatnonzero(present):
        view, clip = views[slot // probe.clips], slot % probe.clips
        frames = clips[view][clip]
        grid = encoder.network.grid(*frames.shape[:3])
        place = f"{view} clip {clip + 1}".strip() if several else ""
        name = f"probe, {place}" if place else "probe"
        maps.append(AttentionMap(name, frames, np.asarray(found[0, slot]).reshape(grid)))
    return probe.task.decode(np.asarray(out))[0], maps


@partial(jax.jit, static_argnames="head")
def head_attention(
    head: Head, params: Any, tokens: jax.Array, present: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Outputs [B, o] of an attentive head, and the attention of its query.

    Args:
      tokens: [B, S, N, D]. present: bool [B, S].

    Returns:
      Also float32 [B, S, N], relative to uniform attention over the tokens that are present; with
      late fusion, over those of the slot.
    """
    out, kept = head.apply({"params": params}, tokens, present, mutable="intermediates")
    (share,) = kept["intermediates"]["pooler"]["share"]  # [B, heads, S N], or late [B S, heads, N]
    slots, count = tokens.shape[1:3]
    mean = rearrange(jnp.mean(share, axis=1), "... (s n) -> ... s n", n=count)
    if head.fusion == "late":
        return out, count * rearrange(mean, "(b s) 1 n -> b s n", s=slots)
    return out, count * jnp.sum(present, axis=1)[:, None, None] * mean
