"""The grid of heads: each becomes what it would have become alone, by AdamW as PyTorch has it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echojepa_jax.models.heads import KINDS, Head
from echojepa_jax.probes import grid as grids
from echojepa_jax.probes.finetune import layer_rates
from echojepa_jax.probes.task import class_weights

UPDATES = 6


@partial(jax.jit, static_argnums=0)
def init(head, *inputs):
    return head.init(*inputs)["params"]


def batches(kind, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(UPDATES):
        labels = rng.integers(3, size=8) if kind == "classification" else rng.standard_normal(8)
        yield (
            rng.standard_normal((8, 2, 5, 12)).astype(np.float32),
            {
                "labels": labels.astype(np.int32 if kind == "classification" else np.float32),
                "weight": np.array([1, 1, 1, 1, 1, 1, 1, 0], np.float32),
                "present": rng.random((8, 2)) < [1.0, 0.7],
            },
        )


def train(head, cells, kind):
    heads = grids.init_grid(head, jax.random.key(0), 12, len(cells))
    for update, (tokens, batch) in enumerate(batches(kind), start=1):
        rates = grids.rates(cells, update, UPDATES)
        heads, losses = grids.grid_step(heads, tokens, batch, *rates, head, kind)
    return heads["params"], losses


@pytest.mark.parametrize("kind", KINDS)
def test_each_head_of_a_grid_is_what_it_would_be_alone(kind):
    head = Head(kind=kind, outputs=3, depth=2, heads=2, hidden=8, clips=2)
    cells = grids.cells((1e-2, 1e-3), (0.01, 0.4))
    assert [cell.name for cell in cells][:2] == ["lr0.01_wd0.01", "lr0.01_wd0.4"]
    together, losses = train(head, cells, "classification")
    for row, cell in enumerate(cells):
        alone, loss = train(head, [cell], "classification")
        np.testing.assert_allclose(losses[row], loss[0], atol=1e-5)
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[row], b[0], atol=1e-5)
    assert any(not np.allclose(leaf[0], leaf[-1]) for leaf in jax.tree.leaves(together))


@pytest.mark.slow
def test_updates_are_those_of_pytorchs_adamw():
    import torch

    rng = np.random.default_rng(0)
    start = rng.standard_normal((3, 4)).astype(np.float32)
    theirs = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = torch.optim.AdamW([theirs], lr=1e-2, weight_decay=0.4)
    mine, adam = {"w": jnp.asarray(start)}, grids.ADAM.init({"w": jnp.asarray(start)})
    for step in range(1, 6):
        grad = rng.standard_normal((3, 4)).astype(np.float32)
        rate = 1e-2 * 0.5 * (1 + np.cos(np.pi * step / 5))
        mine, adam = grids.adamw(mine, {"w": jnp.asarray(grad)}, adam, {"w": rate}, {"w": 0.4})
        optimizer.param_groups[0]["lr"] = rate
        theirs.grad = torch.from_numpy(grad)
        optimizer.step()
        np.testing.assert_allclose(mine["w"], theirs.detach().numpy(), atol=1e-6)


def test_rates_fall_to_zero_as_a_cosine():
    cells = grids.cells((2.0,), (0.1,))
    values = [float(grids.rates(cells, k, 20)[0][0]) for k in (1, 10, 20)]
    np.testing.assert_allclose(values, [1 + np.cos(np.pi / 20), 1.0, 0.0], atol=1e-6)


def test_what_fills_up_a_batch_counts_for_nothing():
    head = Head(kind="linear", outputs=1, clips=2)
    tokens, batch = next(batches("regression"))
    params = init(head, jax.random.key(0), tokens, batch["present"])
    loss = grids.loss_fn(params, tokens, batch, head, "regression")
    tokens[-1], batch["labels"][-1] = 1e3, 1e3
    assert loss == grids.loss_fn(params, tokens, batch, head, "regression")
    seven = {name: value[:7] for name, value in batch.items()}
    shorter = grids.loss_fn(params, tokens[:7], seven, head, "regression")
    np.testing.assert_allclose(loss, shorter, rtol=1e-6)


@pytest.mark.slow
def test_weights_of_classes_act_as_in_pytorchs_cross_entropy():
    import torch

    labels = np.array([0, 0, 0, 0, 0, 0, 1, 2])
    weights = class_weights(labels, 3)
    np.testing.assert_allclose(weights, 3 * np.array([1 / 6, 1, 1]) / (1 / 6 + 2), rtol=1e-6)
    head = Head(kind="linear", outputs=3, clips=2)
    tokens, batch = next(batches("classification"))
    params = init(head, jax.random.key(0), tokens, batch["present"])
    # All of one common class: their weights are small, but their mean loss is not.
    for labels in (np.zeros(8, np.int32), batch["labels"]):
        batch |= {"labels": labels, "weight": weights[labels]}
        outputs = head.apply({"params": params}, tokens, batch["present"])
        expected = torch.nn.functional.cross_entropy(
            torch.from_numpy(np.array(outputs)),
            torch.from_numpy(labels).long(),
            weight=torch.from_numpy(weights),
        )
        found = grids.loss_fn(params, tokens, batch, head, "classification")
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.slow
def test_parts_of_a_batch_give_the_same_update():
    head = Head(kind="attentive", outputs=1, depth=2, heads=2, clips=2)
    tokens, batch = next(batches("regression"))
    cells = grids.cells((1e-2,), (0.1,))
    results = []
    for parts in (1, 4):
        heads = grids.init_grid(head, jax.random.key(0), 12, 1)
        rates = grids.rates(cells, 1, 9)
        heads, loss = grids.grid_step(heads, tokens, batch, *rates, head, "regression", parts)
        # Adam divides by the size of the gradient: compare what it has summed.
        results.append((loss, jax.tree.leaves(heads["adam"])))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-6)
    for one, other in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6, rtol=1e-5)


def test_every_layer_learns_slower_than_the_one_after_it():
    shapes = {
        "patch_embed": {"kernel": jnp.zeros((6, 4))},
        "stack": {"blocks": {"fc": {"kernel": jnp.zeros((3, 4, 4)), "bias": jnp.zeros((3, 4))}}},
        "norm": {"scale": jnp.zeros(4)},
    }
    rates = layer_rates(shapes, 3, 0.5)
    assert rates["norm"]["scale"] == 1
    fc = rates["stack"]["blocks"]["fc"]
    np.testing.assert_allclose(fc["kernel"][:, 0, 0], [0.125, 0.25, 0.5])
    np.testing.assert_allclose(fc["bias"][:, 0], [0.125, 0.25, 0.5])
    assert rates["patch_embed"]["kernel"] == 0.5**4
