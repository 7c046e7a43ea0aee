"""Reading collectives from the text of compiled programs."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from echojepa_jax.costs.collectives import Collective, by_kind, collectives
from echojepa_jax.parallel import mesh as meshes


def compiled_text(function, *shapes):
    mesh = meshes.make_mesh(replica=1, fsdp=8)
    split = NamedSharding(mesh, PartitionSpec("fsdp"))
    with jax.set_mesh(mesh):
        inputs = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=split) for shape in shapes]
        return jax.jit(function).lower(*inputs).compile().as_text()


def test_a_gather_in_a_loop_counts_as_often_as_the_loop_runs():
    def function(stacked, x):
        def body(x, layer):
            whole = jax.lax.with_sharding_constraint(layer, PartitionSpec())
            return jnp.tanh(x @ whole), None

        def split(layer):
            return jax.lax.with_sharding_constraint(layer, PartitionSpec(None, "fsdp"))

        return jax.lax.scan(body, x, split(jnp.swapaxes(stacked, 0, 1)))[0].sum()

    found = by_kind(collectives(compiled_text(function, (64, 5, 64), (8, 64))))
    assert found["all-gather"] == (5, 5 * 64 * 64 * 4, 5 * 64 * 64 * 4 * 7 / 8)


TPU = """HloModule step, is_scheduled=true, num_partitions=64
%all-reduce-scatter.1 (input: f32[64,192]) -> f32[16,192] {
  %input = f32[64,192]{1,0:T(8,128)} parameter(0)
  %all-reduce.7 = f32[64,192]{1,0:T(8,128)} all-reduce(%input), replica_groups={{0,1,2,3},{4,5,6,7}}
  ROOT %dynamic-slice.1 = f32[16,192]{1,0:T(8,128)} dynamic-slice(%all-reduce.7, %a, %b)
}

%start (p: bf16[64,4096]) -> bf16[1024,4096] {
  %all-gather.1 = bf16[1024,4096]{1,0} all-gather(%p), channel_id=4, replica_groups=[4,16]<=[64]
  ROOT %c = (bf16[1024,4096]{1,0}) custom-call(), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.9 (p: bf16[64,4096]) -> bf16[1024,4096] {
  %all-gather.2 = bf16[1024,4096]{1,0} all-gather(%p), channel_id=4
  ROOT %d = bf16[1024,4096]{1,0} custom-call(), custom_call_target="AsyncCollectiveDone"
}

%condition (p: (s32[], f32[8])) -> pred[] {
  %constant.3 = s32[]{:T(128)} constant(24)
  %gte = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%gte, %constant.3), direction=LT
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %f = f32[16,192]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
  %s = bf16[1024,4096]{1,0} fusion(%x), kind=kCustom, calls=%start
  %t = bf16[1024,4096]{1,0} fusion(%x), kind=kCustom, calls=%async_collective_fusion.9
  %p.1 = (f32[4]{0}, f32[4]{0}, u32[]{:S(2)}) collective-permute-start(%y), channel_id=5
  %g.1 = ((f32[2], bf16[9]), (f32[8], bf16[36])) all-gather-start(%y), replica_groups=[16,4]<=[64]
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %w = (s32[], f32[8]) while(%t), condition=%condition, body=%body
  %r = f32[2]{0} all-reduce(%q), channel_id=9, to_apply=%add, metadata={stack "
}}, is not the end"}
  %a = (f32[4]{0}, bf16[8]{0}) all-to-all(%q, %r), channel_id=11
}
"""


def test_what_a_tpus_compiler_writes():
    found = collectives(TPU)
    assert set(found) == {
        Collective("reduce-scatter", ("f32[16,192]",), 16 * 192 * 4, 24, 4),
        Collective("all-gather", ("bf16[1024,4096]",), 1024 * 4096 * 2, 24, 16),
        Collective("all-to-all", ("f32[4]", "bf16[8]"), 32, 1, 64),
        Collective("collective-permute", ("f32[4]",), 16, 24, 64),
        Collective("all-gather", ("f32[8]", "bf16[36]"), 32 + 72, 24, 4),
    }
    # A single number, such as a loss, is not worth a line.
    assert "all-reduce" not in by_kind(found)


GPU = """HloModule jit_train_step, is_scheduled=true, num_partitions=8
%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %g = ((f32[12]{0}, /*index=1*/bf16[9]{0}), (f32[48]{0}, bf16[36]{0})) all-gather-start(%a, %b), \
replica_groups=mesh['a'=1,'b'=4,'c'=2], device_ids=([2,4]T(1,0)) {'b'}, dimensions={0}
  %h = (f32[48]{0}, bf16[36]{0}) all-gather-done(%g)
  %s = ((f32[64,48]{1,0}), (f32[16,48]{1,0})) reduce-scatter-start(%x), \
replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}, to_apply=%add
  %t = (f32[16,48]{1,0}) reduce-scatter-done(%s)
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %w = (s32[], f32[8]) while(%t), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"24"},"known_init_step":{"init":"0","step":"1"}}
  %r = f32[594]{0} all-reduce-start(%q), replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add
  %d = f32[594]{0} all-reduce-done(%r)
  %e = f32[50]{0} all-reduce-start(%q), replica_groups=mesh['a'=8] {'a':(1)2,'a':(4)2}
  %l = f32[]{0} all-reduce-start(%q), replica_groups=mesh['a'=8] {'a'}, to_apply=%add
}
"""


def test_what_a_gpus_compiler_writes():
    # Lines of the real program, shortened.
    assert set(collectives(GPU)) == {
        Collective("all-gather", ("f32[48]", "bf16[36]"), 264, 24, 4),
        Collective("reduce-scatter", ("f32[16,48]",), 3_072, 24, 4),
        Collective("all-reduce", ("f32[594]",), 2_376, 1, 2),
        Collective("all-reduce", ("f32[50]",), 200, 1, 4),
    }


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("all-gather", 3 / 4 * 80),
        ("all-reduce", 2 * 3 / 4 * 80),
        ("reduce-scatter", 3 * 80),
        ("all-to-all", 3 / 4 * 80),
        ("collective-permute", 80),
    ],
)
def test_what_a_device_sends_in_a_ring_of_four(kind, sent):
    assert Collective(kind, ("f32[20]",), 80, 1, 4).sent == pytest.approx(sent)


def test_other_text_is_an_error():
    with pytest.raises(ValueError, match="no ENTRY"):
        collectives("HloModule x")
