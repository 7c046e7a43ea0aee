"""Trees of parameters: their paths as text, and a value for each path by regular expression."""

import re
from collections.abc import Sequence
from typing import Any

import jax


def path_text(path: tuple[Any, ...]) -> str:
    """A key path of JAX as text, such as "encoder/stack/blocks/mlp/fc1/kernel"."""
    return "/".join(
        str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path
    )


def by_rules(tree: Any, rules: Sequence[tuple[str, Any]]) -> Any:
    """Gives every leaf the value of the first rule whose pattern matches a part of its path.

    Args:
      tree: any pytree.
      rules: (regular expression, value) in order of precedence.

    Returns:
      A tree like `tree` with the values as leaves.

    Raises:
      ValueError: no rule covers a leaf.
    """

    def value(path: tuple[Any, ...], _: Any) -> Any:
        text = path_text(path)
        for pattern, result in rules:
            if re.search(pattern, text):
                return result
        raise ValueError(f"no rule covers the parameter {text}: add one to {[r for r, _ in rules]}")

    return jax.tree_util.tree_map_with_path(value, tree)


def count_parameters(tree: Any) -> int:
    """Number of scalars in a tree of arrays or of their shapes."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(tree))
