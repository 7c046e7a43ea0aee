"""AdamW with weight decay by parameter, and the target encoder's moving average, for optax."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from echojepa_jax.models.predictor import USED_MASK_TOKENS
from echojepa_jax.train.schedules import Schedule
from echojepa_jax.utils.trees import by_rules, path_text

# Biases, norms and VideoMAE's mask token have no weight decay. V-JEPA's mask tokens have, as in the
# original, where they are matrices; but only those that are used: see `_without_unused`.
DECAY_RULES = (
    (r"(^|/)(bias|scale|q_bias|v_bias|mask_token)$", False),
    (r"(^|/)(kernel|mask_tokens|video_embed|image_embed)$", True),
)
# Parameters for images (V-JEPA 2.1) have no gradient without images, and no weight decay either.
VIDEO_DECAY_RULES = ((r"(^|/)(image_embed|patch_embed_image/kernel)$", False), *DECAY_RULES)


def adamw(
    params: Any,
    learning_rate: Schedule,
    weight_decay: Schedule,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    clip_norm: float = 0.0,
    images: bool = False,
) -> optax.GradientTransformation:
    """AdamW as in PyTorch: decay is decoupled and multiplied by the learning rate.

    Args:
      params: the tree to optimise (shapes suffice); its paths decide which parameters decay.
      learning_rate, weight_decay: schedules that count updates from 1, as the original does.
      clip_norm: global norm to clip the gradient to; 0 = no clipping, as in the recipe.
      images: whether batches contain images as well as videos.
    """
    rules = DECAY_RULES if images else VIDEO_DECAY_RULES
    return optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.scale_by_adam(*betas, eps=eps),
        _without_unused(
            optax.add_decayed_weights(
                lambda count: weight_decay(count + 1), mask=by_rules(params, rules)
            )
        ),
        optax.scale_by_learning_rate(lambda count: learning_rate(count + 1)),
    )


def _without_unused(decay: optax.GradientTransformation) -> optax.GradientTransformation:
    """Applies weight decay except to rows whose gradient is always zero: unused mask tokens.

    In PyTorch every mask token is a separate parameter, and the optimizer skips parameters without
    a gradient. Adam's update for a gradient that was always zero is zero, so these rows keep their
    bits.
    """

    def seen(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        if not path_text(path).endswith("mask_tokens"):
            return leaf
        return jnp.where(jnp.arange(len(leaf))[:, None] < USED_MASK_TOKENS, leaf, 0)

    def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
        return decay.update(updates, state, jax.tree_util.tree_map_with_path(seen, params))

    return optax.GradientTransformation(decay.init, update)


def parameter_ema(momentum: Schedule) -> optax.GradientTransformation:
    """The target encoder: `ema <- m ema + (1 - m) params`, m = momentum(update), from 0.

    `update` takes the *updated* parameters. The average starts at the initial parameters, so it
    needs no bias correction. The state is optax's `EmaState`; its `ema` is the target encoder's
    parameter tree.
    """

    def init(params: Any) -> optax.EmaState:
        # A copy: a step that donates its state must not get the same buffer twice.
        return optax.EmaState(jnp.zeros([], jnp.int32), jax.tree.map(jnp.array, params))

    def update(params: Any, state: optax.EmaState, _: Any = None) -> tuple[Any, optax.EmaState]:
        return optax.ema(momentum(state.count), debias=False).update(params, state)

    return optax.GradientTransformation(init, update)


def count_updates() -> optax.GradientTransformation:
    """In the place of `parameter_ema` where there is no target encoder: only the count moves on."""

    def init(params: Any) -> optax.EmaState:
        del params
        return optax.EmaState(jnp.zeros([], jnp.int32), {})

    def update(params: Any, state: optax.EmaState, _: Any = None) -> tuple[Any, optax.EmaState]:
        return params, optax.EmaState(optax.safe_increment(state.count), {})

    return optax.GradientTransformation(init, update)
