"""AdamW with a policy per parameter, and the target encoder's moving average, as optax chains."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from echojepa_jax.models.predictor import USED_MASK_TOKENS
from echojepa_jax.train.schedules import Schedule
from echojepa_jax.utils.trees import by_rules, path_text

# Weight decay is not applied to biases and norms. V-JEPA's mask tokens are matrices upstream, and
# decay, but only those that are used: see `_without_unused`. VideoMAE's mask token does not.
DECAY_RULES = (
    (r"(^|/)(bias|scale|q_bias|v_bias|mask_token)$", False),
    (r"(^|/)(kernel|mask_tokens|video_embed|image_embed)$", True),
)
# Without images, what only they use (V-JEPA 2.1) has no gradient, and does not decay either.
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
      params: a tree like the one to optimise (shapes suffice); picks what decays.
      learning_rate, weight_decay: schedules that count updates from 1, as the original does.
      clip_norm: largest global norm of the gradient; 0 leaves gradients alone, as in the recipe.
      images: the batches hold images as well as videos.
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
    """Weight decay that leaves alone what has no gradient: the mask tokens that nobody uses.

    PyTorch's optimizer passes over a parameter without a gradient, and every mask token is a
    parameter of its own there. Adam's update of a gradient that was always zero is zero, so that
    these rows keep their bits.
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

    Fed with the *updated* parameters; seeded with the initial ones, so there is nothing to debias.
    The state is optax's `EmaState`; its `ema` is the target encoder's parameter tree.
    """

    def init(params: Any) -> optax.EmaState:
        # A copy: the state of a donated step must not hold one buffer twice.
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
