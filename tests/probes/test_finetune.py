"""Fine-tuning on several TPU chips: the encoder keeps its kernels, and clips are not sent."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from echojepa_jax.costs import ahead
from echojepa_jax.models.heads import Head
from echojepa_jax.models.vit import Encoder
from echojepa_jax.parallel import mesh as meshes
from echojepa_jax.probes import finetune, grid

pytestmark = pytest.mark.slow


def test_four_chips_share_the_clips_and_run_the_attention_kernel():
    ahead.prepare_environment()
    mesh = meshes.make_mesh(ahead.tpu_devices("v5e:2x2"))
    plain = Encoder(128, 1, 2, 256, dtype=jnp.bfloat16)
    fused = dataclasses.replace(plain, attention="fused", drop_path=0.1)
    head = Head("linear", 1, clips=2)
    clips = jax.ShapeDtypeStruct((8, 2, 4, 32, 32, 3), jnp.uint8)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def state(key):
        encoder = plain.init(key, jnp.zeros((1, 4, 32, 32, 3)))["params"]
        trained = {"params": encoder, "adam": grid.ADAM.init(encoder)}
        return {"heads": grid.init_grid(head, key, 128, 1), "encoder": trained}

    batch = {
        "clips": clips,
        "present": jax.ShapeDtypeStruct((8, 2), bool),
        "labels": jax.ShapeDtypeStruct((8,), jnp.float32),
        "weight": jax.ShapeDtypeStruct((8,), jnp.float32),
    }
    rate = jax.ShapeDtypeStruct((1,), jnp.float32)

    def on(spec, tree):
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
        )

    with jax.set_mesh(mesh):
        lowered = finetune.finetune_step.lower(
            on(PartitionSpec(), jax.eval_shape(state, key)),
            on(meshes.BATCH, batch),
            on(PartitionSpec(), key),
            rate,
            rate,
            encoder=fused,
            mean_std=((0.5,) * 3, (0.5,) * 3),
            keep="mean",
            times=1,
            head=head,
            kind="regression",
            scale=1.0,
            decay=0.9,
        )
        text = lowered.compile().as_text()
    for kernel in ("attention_forward", "attention_backward"):
        assert f"{kernel}/pallas_call" in text
    # Gradients are summed; no activation is sent.
    assert " all-reduce(" in text
    assert not any(f" {other}(" in text for other in ("all-gather", "all-to-all"))
