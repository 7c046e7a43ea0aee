"""Training on clips instead of features: encoding a batch, and updating encoder and head."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange, repeat

from echojepa_jax.features.encode import tokens_of
from echojepa_jax.models.heads import Head
from echojepa_jax.models.pixels import Colour
from echojepa_jax.models.vit import Encoder
from echojepa_jax.probes import grid as grids
from echojepa_jax.train.optim import DECAY_RULES
from echojepa_jax.utils.trees import by_rules, path_text

Tree = Any


def layer_rates(params: Tree, depth: int, decay: float) -> Tree:
    """The learning rate of every encoder parameter, relative to that of the last layer.

    The final norm has 1, the last block `decay`, the one before it its square, and the patch
    embedding `decay ** (depth + 1)` (Clark et al. 2020, as in BEiT and MAE).
    Layers are stacked: the rates of a stacked parameter are an array [depth, 1, ...].
    """

    def rate(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        name = path_text(path)
        if name.startswith("stack/"):
            layers = decay ** (depth - jnp.arange(depth, dtype=jnp.float32))
            return layers.reshape(depth, *(1,) * (leaf.ndim - 1))
        first = name.startswith("patch_embed") or name in ("video_embed", "image_embed")
        return jnp.float32(decay ** (depth + 1) if first else 1.0)

    return jax.tree_util.tree_map_with_path(rate, params)


_STATIC = ("encoder", "mean_std", "keep", "times")


@partial(jax.jit, static_argnames=_STATIC)
def tokens_of_slots(
    params: Tree, clips: jax.Array, rng: jax.Array, *, encoder: Encoder,
    mean_std: tuple[Colour, Colour], keep: str, times: int,
) -> jax.Array:  # fmt: skip
    """`tokens_of` for all clips of examples: uint8 [B, S, T, H, W, 3] -> [B, S times, N, D].

    mean_std: mean and standard deviation of each colour. rng: for stochastic depth. times: how many
    equal clips of a video each clip stands for.
    """
    flat = rearrange(clips, "b s ... -> (b s) ...")
    return repeat(
        tokens_of(encoder, params, flat, *mean_std, keep, rngs={"drop_path": rng}),
        "(b s) n d -> b (s times) n d",
        s=clips.shape[1],
        times=times,
    )


@partial(
    jax.jit, static_argnames=(*_STATIC, "head", "kind", "scale", "decay", "gamma"), donate_argnums=0
)
def finetune_step(
    state: Tree, batch: Tree, rng: jax.Array, learning_rate: jax.Array, weight_decay: jax.Array,
    *, encoder: Encoder, mean_std: tuple[Colour, Colour], keep: str, times: int, head: Head,
    kind: str, scale: float, decay: float, gamma: float = 0.0,
) -> tuple[Tree, jax.Array]:  # fmt: skip
    """One update of encoder and head together; the grid has a single head.

    Args:
      state: {"heads", "encoder"}, each {"params", "adam"}.
      batch: `clips` uint8 [B, S, T, H, W, 3], and the other inputs of `grid.loss_fn`.
      times: see `tokens_of_slots`.
      scale: learning rate of the encoder's last layer, relative to the head's.
      decay: see `layer_rates`. gamma: of the focal loss, see `class_loss`.

    Returns:
      The state after the update, and the loss before it: float32 [1].
    """
    first = partial(jax.tree.map, lambda x: x[0])
    heads, trained = first(state["heads"]), state["encoder"]

    def loss(params: Tree) -> jax.Array:
        tokens = tokens_of_slots(
            params["encoder"],
            batch["clips"],
            rng,
            encoder=encoder,
            mean_std=mean_std,
            keep=keep,
            times=times,
        )
        return grids.loss_fn(params["head"], tokens, batch, head, kind, gamma)

    value, grads = jax.value_and_grad(loss)({"encoder": trained["params"], "head": heads["params"]})
    rate, wd = learning_rate[0], weight_decay[0]
    params, adam = grids.adamw(
        heads["params"],
        grads["head"],
        heads["adam"],
        grids.everywhere(rate, heads["params"]),
        grids.everywhere(wd, heads["params"]),
    )
    new_heads = jax.tree.map(lambda x: x[None], {"params": params, "adam": adam})
    # As in pretraining, the encoder's biases and norms do not decay.
    decays = jax.tree.map(lambda on: wd * on, by_rules(trained["params"], DECAY_RULES))
    layers = layer_rates(trained["params"], encoder.depth, decay)
    rates = jax.tree.map(lambda layer: rate * scale * layer, layers)
    params, adam = grids.adamw(trained["params"], grads["encoder"], trained["adam"], rates, decays)
    return {"heads": new_heads, "encoder": {"params": params, "adam": adam}}, value[None]
