"""The account of a compiled program: what counts, how often, as which kind, and in which part."""

import dataclasses

import pytest

from echojepa_jax.costs import account as accounts
from echojepa_jax.costs import account_table
from echojepa_jax.costs.chips import TPUS

pytestmark = pytest.mark.slow

# So that a million cycles are a millisecond.
CHIP = dataclasses.replace(TPUS["v5e"], clock=1e9)

LAYER = "jit(train_step)/jvp(target_encoder)/Encoder/stack/while/body/closed_call/blocks"
BACK = "jit(train_step)/transpose(jvp(predictor))/Predictor/stack/while/body/closed_call"


def costs(millions):
    return f'backend_config={{"window_config":{{"estimated_cycles":"{millions}000000"}}}}'


def named(op_name):
    return f'metadata={{op_name="{op_name}" stack_frame_id=7}}'


# As the TPU's compiler writes it after code generation, but for what is of no interest.
PROGRAM = f"""HloModule jit_train_step, is_scheduled=true, num_partitions=4

%inner_product (a: bf16[8,64], b: bf16[64,64]) -> f32[8,64] {{
  %a.1 = bf16[8,64]{{1,0:T(8,128)(2,1)}} parameter(0)
  %b.1 = bf16[64,64]{{1,0:T(8,128)(2,1)}} parameter(1)
  ROOT %convolution.1 = f32[8,64]{{1,0}} convolution(%a.1, %b.1), {named(LAYER + "/mlp/dot")}
}}

%product (a: bf16[8,64], b: bf16[64,64]) -> f32[8,64] {{
  %a.2 = bf16[8,64]{{1,0}} parameter(0)
  %b.2 = bf16[64,64]{{1,0}} parameter(1)
  %fusion.9 = f32[8,64]{{1,0}} fusion(%a.2, %b.2), kind=kOutput, calls=%inner_product, {costs(1000)}
  ROOT %add.2 = f32[8,64]{{1,0}} add(%fusion.9, %fusion.9)
}}

%rotation (a: bf16[8,64]) -> f32[8,64] {{
  %a.3 = bf16[8,64]{{1,0}} parameter(0)
  %swap.3 = bf16[64,64]{{1,0}} constant({{...}})
  %dot.3 = f32[8,64]{{1,0}} convolution(%a.3, %swap.3), {named(LAYER + "/attention/rotary/dot")}
  ROOT %multiply.3 = f32[8,64]{{1,0}} multiply(%dot.3, %dot.3), {named(LAYER + "/rotary/mul")}
}}

%concatenation (a: bf16[4,64], b: bf16[4,64]) -> bf16[8,64] {{
  %a.4 = bf16[4,64]{{1,0}} parameter(0)
  %b.4 = bf16[4,64]{{1,0}} parameter(1)
  %zero = bf16[] constant(0)
  %pad.4 = bf16[8,64]{{1,0}} pad(%a.4, %zero), padding=0_4x0_0
  %convert.4 = f32[8,64]{{1,0}} convert(%pad.4)
  %pad.5 = bf16[8,64]{{1,0}} pad(%b.4, %zero), padding=4_0x0_0
  %convert.5 = f32[8,64]{{1,0}} convert(%pad.5)
  %maximum.4 = f32[8,64]{{1,0}} maximum(%convert.4, %convert.5)
  ROOT %convert.6 = bf16[8,64]{{1,0}} convert(%maximum.4)
}}

%padded_sum (a: bf16[4,64], b: bf16[8,64]) -> bf16[8,64] {{
  %a.7 = bf16[4,64]{{1,0}} parameter(0)
  %b.7 = bf16[8,64]{{1,0}} parameter(1)
  %zero.7 = bf16[] constant(0)
  %pad.7 = bf16[8,64]{{1,0}} pad(%a.7, %zero.7), padding=0_4x0_0
  ROOT %add.7 = bf16[8,64]{{1,0}} add(%pad.7, %b.7)
}}

%few (p: (s32[], f32[8])) -> pred[] {{
  %constant.few = s32[]{{:T(128)}} constant(3)
  %i.few = s32[]{{:T(128)}} get-tuple-element(%p), index=0
  ROOT %lt.few = pred[]{{:T(512)}} compare(%i.few, %constant.few), direction=LT
}}

%layers (p: (s32[], f32[8])) -> pred[] {{
  %constant.layers = s32[]{{:T(128)}} constant(24)
  %i.layers = s32[]{{:T(128)}} get-tuple-element(%p), index=0
  ROOT %lt.layers = pred[]{{:T(512)}} compare(%i.layers, %constant.layers), direction=LT
}}

%inner_body (p: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %copy.5 = f32[8]{{0}} copy(%x), {costs(1)}, {named("reduce_scatter")}
}}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %fusion.1 = f32[8,64]{{1,0}} fusion(%x, %y), kind=kOutput, calls=%product, {costs(2)}, {
    named(LAYER + "/mlp/dot")
}
  %fusion.2 = f32[8,64]{{1,0}} fusion(%x), kind=kLoop, calls=%rotation, {costs(3)}, {
    named(LAYER + "/attention/rotary/mul")
}
  %fusion.3 = bf16[8,64]{{1,0}} fusion(%x, %y), kind=kLoop, calls=%concatenation, {costs(4)}, {
    named(LAYER + "/attention/transpose")
}
  %splash.7 = (bf16[8]{{0}}, bf16[8]{{0}}) custom-call(%x), custom_call_target="tpu_custom_call", {
    named("vmap(splash)/pallas_call")
}
  %splash.8 = (bf16[8]{{0}}, bf16[8]{{0:S(1)}}) custom-call(), custom_call_target="tpu_custom_call"
  %splash.9 = (bf16[9]{{0}}, bf16[9]{{0}}) custom-call(%x), custom_call_target="tpu_custom_call"
  %copy-start.1 = (f32[8]{{0}}, f32[8]{{0:S(1)}}, u32[]) copy-start(%x)
  %w.2 = (s32[], f32[8]) while(%t), condition=%few, body=%inner_body, {named(LAYER + "/while")}
}}

%back (p: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %fusion.4 = bf16[8,64]{{1,0}} fusion(%x, %y), kind=kLoop, calls=%padded_sum, {costs(5)}, {
    named(BACK + "/checkpoint/rematted_computation/blocks/add")
}
}}

%called (x: f32[8]) -> f32[8] {{
  %transpose.1 = f32[8]{{0}} transpose(%x), {costs(7)}, {named("jit(train_step)/optimizer/mul")}
}}

%dear (x: f32[8]) -> f32[8] {{
  %sine.1 = f32[8]{{0}} sine(%x), {costs(9)}, {named("jit(train_step)/jvp(loss)/sin")}
}}

%cheap (x: f32[8]) -> f32[8] {{
  %sine.2 = f32[8]{{0}} sine(%x), {costs(8)}, {named("jit(train_step)/jvp(loss)/sin")}
}}

ENTRY %main (x: f32[8]) -> f32[8] {{
  %w.1 = (s32[], f32[8]) while(%t), condition=%layers, body=%body, {named(LAYER + "/while")}
  %w.3 = (s32[], f32[8]) while(%t), condition=%few, body=%back, {named(BACK)}
  %call.1 = f32[8]{{0}} call(%x), to_apply=%called
  %c.1 = f32[8]{{0}} conditional(%p, %x, %x), branch_computations={{%cheap, %dear}}
  %fused_norm.1 = f32[8]{{0}} custom-call(%x), custom_call_target="tpu_custom_call", {
    named("jit(train_step)/jvp(context_encoder)/Encoder/norm/pallas_call")
}
}}
"""

# Three bundles that run once.
SCHEDULE = "   0   :  { %s0_s0 = smov.u32 1 }\n 0x1   :  {}\n 0x2   :  {}\n"


@pytest.fixture
def found(tmp_path):
    (tmp_path / "dump").mkdir()
    (tmp_path / "kernels").mkdir()
    (tmp_path / "dump" / "module_0001.jit_train_step.after_codegen.txt").write_text(PROGRAM)
    (tmp_path / "kernels" / "17-splash.7-01-final_bundles.txt").write_text(SCHEDULE)
    account = accounts.of_dump(tmp_path / "dump", CHIP, tmp_path / "kernels")
    assert account is not None
    return account


def test_everything_counts_once_and_as_often_as_it_runs(found):
    assert {row.name: (row.runs, row.cycles) for row in found.rows} == {
        "fusion.1": (24, 24 * 2 * 10**6),
        "fusion.2": (24, 24 * 3 * 10**6),
        "fusion.3": (24, 24 * 4 * 10**6),
        "splash.7": (24, 24 * 3),
        "splash.8": (24, 24 * 3),  # the compiler has met it before
        "splash.9": (24, None),  # not this one
        "copy.5": (24 * 3, 24 * 3 * 10**6),
        "fusion.4": (3, 3 * 5 * 10**6),
        "transpose.1": (1, 7 * 10**6),
        "sine.1": (1, 9 * 10**6),  # of two branches the dearer one
        "fused_norm.1": (1, None),
    }
    assert found.seconds == pytest.approx((24 * (2 + 3 + 4 + 3) + 15 + 7 + 9) * 1e-3, rel=1e-5)
    assert [row.name for row in found.dearest(2)] == ["fusion.3", "fusion.2"]


def test_kinds_are_told_by_what_is_in_a_fusion(found):
    assert {row.name: row.kind for row in found.rows} == {
        "fusion.1": "matrix products",  # in a fusion in it
        "fusion.2": "rotary",  # although a product swaps the channels
        "fusion.3": "moving data",  # the maximum of padded arrays
        "splash.7": "attention kernels",
        "splash.8": "attention kernels",
        "splash.9": "attention kernels",
        "copy.5": "moving data",
        "fusion.4": "elementwise",  # the sum of a padded array and another one
        "transpose.1": "moving data",
        "sine.1": "elementwise",
        "fused_norm.1": "other kernels",
    }


def test_parts_are_told_by_where_it_comes_from(found):
    assert {row.name: row.part for row in found.rows} == {
        "fusion.1": "target encoder",
        "fusion.2": "target encoder",
        "fusion.3": "target encoder",
        "splash.7": "target encoder",  # as the loop that it is in
        "splash.8": "target encoder",
        "splash.9": "target encoder",
        "copy.5": "target encoder",
        "fusion.4": "predictor, backward",  # what is computed again as well
        "transpose.1": "optimizer and EMA",
        "sine.1": "outside the layers",
        "fused_norm.1": "outside the layers",
    }
    by_part = found.by_part()
    assert sum(by_part.values()) == pytest.approx(found.seconds)
    assert by_part["predictor, backward"] == pytest.approx(0.015)
    nested = found.by_part_and_kind()
    assert nested["target encoder"]["moving data"] == pytest.approx(24 * (4 + 3) * 1e-3)


@pytest.mark.parametrize(
    ("op_name", "part"),
    [
        ("jit(f)/jvp(context_encoder)/Encoder/stack/while/body/add", "context encoder, forward"),
        ("jit(f)/transpose(jvp(context_encoder))/Encoder/stack/x", "context encoder, backward"),
        ("jit(f)/jvp(context_encoder)/Encoder/patch_embed/add", "outside the layers"),
        ("jit(encode_clips)/Encoder/stack/while", "encoder"),
        ("jit(f)/while/body/jvp(predictor)/Predictor/stack/x", "predictor, forward"),
        ("", "outside the layers"),
    ],
)
def test_parts(op_name, part):
    assert accounts.part_of(op_name) == part


def test_the_table_says_what_is_known_and_what_is_left_out(found):
    flops = {"target encoder": 0.144 * TPUS["v5e"].flops}  # it takes 0.288 s
    lines = account_table.lines(found, flops, TPUS["v5e"], 0.012, 1, "a step")
    text = "\n".join(lines)
    (target,) = (line for line in lines if line.startswith("  target encoder"))
    assert target.split() == ["target", "encoder", "288.0", "ms", "90.3%", "50.0%"]
    (sent,) = (line for line in lines if line.startswith("  collectives"))
    assert sent.split(maxsplit=3)[1:] == ["12.0", "ms", "from data sheets, not in the total"]
    assert "96.0 ms  moving data; target encoder; 24 runs; fusion.3 bf16[8,64]{1,0}" in text
    assert text.endswith("not found and are left out: fused_norm.1, splash.9.")
    numbers = account_table.as_json(found, flops, TPUS["v5e"], 0.012, 1)
    assert numbers["seconds"] == found.seconds
    assert numbers["dearest"][0]["name"] == "fusion.3"
    assert numbers["by_kind"]["rotary"] == pytest.approx(0.072)


def test_a_compiler_that_tells_nothing(tmp_path):
    (tmp_path / "x.after_codegen.txt").write_text("ENTRY %main (x: f32[8]) -> f32[8] {\n}\n")
    assert accounts.of_dump(tmp_path, CHIP, None) is None
