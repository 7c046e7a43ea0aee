"""Plans: for TPUs that are not there, for GPUs, and the largest batch."""

import dataclasses
import importlib.util
import json

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echojepa_jax.costs import ahead, flops
from echojepa_jax.costs import plan as plans
from echojepa_jax.costs.account import LEFT_OUT, PARTS
from echojepa_jax.costs.chips import GPUS, TPUS
from echojepa_jax.costs.collectives import Collective
from echojepa_jax.costs.flops import ClipFlops
from echojepa_jax.parallel.mesh import FSDP, REPLICA, make_mesh
from echojepa_jax.train.program import make_program
from echojepa_jax.utils.errors import UserError
from tests import programs
from tests.makers.configs import SHRINK

pytestmark = pytest.mark.slow

V5E = "--topology=v5e:2x2"
FIELDS = SHRINK | {"model.width": 64, "predictor.width": 32, "model.dtype": "bfloat16"}


def run_plan(*arguments, config="configs/demo.py", run=programs.succeed, **changes):
    fields = programs.as_fields(FIELDS | changes)
    return run("plan", f"--config={config}", *fields, *arguments)


def numbers_of(text):
    """The table's lines "name   number unit"."""
    lines = [line.split("  ") for line in text.splitlines() if line.startswith("  ")]
    return {parts[1].strip(): parts[-1].strip() for parts in lines if len(parts) > 2}


def test_a_tpu_slice_that_is_not_there(tiny, tmp_path):
    """The table, without the schedules of kernels, which need a process of their own."""
    ahead.prepare_environment()
    wide = dict(model__width=64, predictor__width=32, model__dtype="bfloat16")
    config = tiny(**wide, mesh__fsdp=4, mesh__replica=1)
    devices = ahead.tpu_devices("v5e:2x2")
    plan = plans.make_plan(config, devices, TPUS["v5e"], schedules=tmp_path)
    shown = plans.table(plan, videos=1000, dearest=3)
    assert "4 x TPU v5e, mesh replica 1 x fsdp 4, global batch 8 (2 a chip)" in shown
    assert "memory of a chip (compiled)" in shown
    assert "all-gather" in shown
    assert "all-to-all" not in shown
    assert "48 clips = 0.0 passes over 1,000 videos" in shown
    assert shown.splitlines()[-1] == "fits: 0% of a chip's memory"
    assert numbers_of(shown)["of"] == "17.18 GB"
    assert " at 30% and " in shown
    assert " at 50% of the peak" in shown
    assert "account of a step on a chip (the compiler's ESTIMATE" in shown
    assert "the slowest 3 instructions" in shown
    assert "The account leaves out the time that hand-written kernels wait for memory." in shown


def test_json_says_the_same(tiny_json):
    found = json.loads(tiny_json)
    assert found["fits"] is True
    assert found["verdict"] == "fits: 0% of a chip's memory"
    assert found["chips"] == 4
    assert found["memory"]["peak"] > found["memory"]["state"] > 0
    # Six steps of 8 clips and 16 images.
    assert (found["clips"], found["images"]) == (48, 96)
    assert found["memory"]["batch"] > 2 * 4 * 32 * 32 * 3 + 4 * 48 * 48 * 3
    assert found["passes"] == 0.048
    counted = found["flops"]
    wanted = 8 * counted["clip"]["total"] + 16 * counted["image"]["total"]
    assert counted["step"] == pytest.approx(wanted)
    assert found["collectives"]["all-gather"]["runs"] > 0
    assert set(found["seconds"]["at_share_of_peak"]) == {"0.3", "0.5"}
    account = found["account"]
    for sums in (account["by_part"], account["by_kind"]):
        assert sum(sums.values()) == pytest.approx(account["seconds"])
    # Kernels have their schedules, and every part of the step is known by its name.
    assert account["by_kind"]["attention kernels"] > 0
    assert account["by_kind"]["matrix products"] > 0
    assert account["left_out"] == list(LEFT_OUT)
    assert len(account["dearest"]) == 3
    assert set(account["by_part"]) == set(PARTS) - {"encoder"}
    assert 0 < account["of_peak"] < 1


@pytest.fixture(scope="module")
def tiny_json():
    """What plan says as JSON, of V-JEPA 2.1 on videos and images."""
    done = run_plan(
        *("--topology=v5p:2x2x1", "--json", "--videos=1000", "--dearest=3"),
        config="tests/makers/demo_images.py",
        **{"mesh.fsdp": 4, "mesh.replica": 1},
    )
    return done.stdout


def test_a_forward_pass_alone():
    found = json.loads(run_plan(V5E, "--forward=8", "--json").stdout)
    account = found["account"]
    assert found["clips"] == 8
    assert set(account["by_part"]) == {"encoder", "outside the layers"}
    assert account["by_kind"]["attention kernels"] > 0
    of_peak = account["of_peak"] * TPUS["v5e"].flops
    assert found["flops"] == pytest.approx(of_peak * account["seconds"])


def test_a_chip_of_two_devices():
    ahead.prepare_environment()
    devices = ahead.tpu_devices("v7x:2x2x1")
    assert len(devices) == 8
    assert 2 * TPUS["v7x"].flops == pytest.approx(2307e12)


@pytest.mark.parametrize("name", TPUS)
def test_clocks_are_those_that_the_peak_needs(name):
    chip = TPUS[name]
    products = {"v4": 8, "v5p": 8, "v5e": 4, "v6e": 16, "v7x": 16}[name] * 128 * 128
    assert chip.clock == pytest.approx(chip.flops / 2 / products, rel=0.03)


def test_gpus_are_compiled_for_or_estimated_and_said_to_be():
    done = run_plan("--gpus=2", **{"model.attention": "cudnn"})
    assert "2 x H100-80GB" in done.stdout
    if importlib.util.find_spec("jax_cuda13_plugin"):
        assert "memory of a chip (compiled)" in done.stdout
        assert "collectives of a step on a chip (compiled)" in done.stdout
    else:
        why = "JAX's CUDA plugin is not installed; for the compiler's figures: pip install jax"
        assert f"memory will be an estimate: {why}" in done.stderr
        assert "memory of a chip (ESTIMATED)" in done.stdout
        assert "collectives of a step on a chip (compiled for simulated devices)" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("fits")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--topology=v5e:8"], "--topology=v5e:8 is not understood: write a kind (v4, v5e,"),
        ([], "give either --topology or --gpus"),
        (["--gpus=3"], "config field 'optim.global_batch'"),
        ([V5E, "--gpu=a100"], "--gpu is for --gpus"),
        (["--gpus=2", "--forward=8"], "--forward needs the TPU compiler: give a --topology"),
        ([V5E, "--sweep", "--dearest=3"], "--sweep cannot be used with --forward or --dearest"),
        ([V5E, "--forward=8", "--config.data.frames=5"], "config field 'data.frames'"),
        (["--gpus=2", "--config.model.attention=fused"], "config field 'model.attention'"),
    ],
)
def test_mistakes_are_a_sentence(arguments, sentence):
    assert f"error: {sentence}" in programs.error_of(run_plan(*arguments, run=programs.run))


@pytest.mark.parametrize(
    ("topology", "sentence"),
    [
        ("v9:2x2", "--topology=v9:2x2 is not understood"),
        ("v5p:4x4", "--topology=v5p:4x4 is not understood"),
        ("v5e:3x5", "cannot compile for --topology=v5e:3x5"),
    ],
)
def test_slices_that_are_not_made_are_a_sentence(topology, sentence):
    ahead.prepare_environment()
    with pytest.raises(UserError, match=sentence):
        ahead.tpu_devices(topology)


def plan_of(config, temporaries, chip=TPUS["v5e"], sent=()):
    memory = plans.Memory(state=10**9, batch=10**6, temporaries=temporaries, compiled=True)
    mesh = {REPLICA: 1, FSDP: 4}
    return plans.Plan(config, chip, 4, mesh, memory, list(sent), ClipFlops(1e12, 1e12, 1e12))


def test_what_attention_and_remat_keep_on_gpus(tiny):
    def memory(remat, backend="cudnn"):
        program = make_program(tiny(model__remat=remat), make_mesh(jax.devices()[:1]))
        return plans._estimated_temporaries(program, backend)

    kernels = [memory(remat) for remat in ("full", "attention", "dots", "none")]
    assert kernels == sorted(set(kernels)), "each keeps more than that before it"
    assert memory("full", "xla") > kernels[0]


def test_images_count_in_a_plan(tiny_images):
    config, mesh = tiny_images(), make_mesh(jax.devices()[:1])
    more = tiny_images(images__global_batch=32)
    few, many = (make_program(one, mesh) for one in (config, more))
    temporaries = plans._estimated_temporaries
    assert temporaries(many, "xla") > temporaries(few, "xla")
    image = flops.of_image(config)
    plan = dataclasses.replace(plan_of(config, 1), image=image)
    assert plan.step_flops == 8 * 3e12 + 16 * image.total
    assert sum(plan.flops_by_part().values()) == pytest.approx(plan.step_flops / 4)
    assert "global batch 8 (2 a chip), and 16 images" in plans.table(plan)
    # 36 tokens for the target encoder, and three times 6 of them, and 18 in the predictor.
    assert image.target == flops.transformer(36, 24, 2, 48)
    assert image.context == 3 * flops.transformer(6, 24, 2, 48)
    assert image.predictor == 3 * flops.transformer(18, 24, 1, 48)


@given(per_clip=st.integers(10**7, 10**10), slack=st.floats(0.9, 1.1))
def test_the_largest_batch_fits_and_was_compiled(tiny_config, per_clip, slack):
    compiled = []

    def fake(config, devices, chip, say):
        clips = config.optim.global_batch // len(devices)
        # Not quite a line: from the fifth clip on it is steeper, or less so.
        needed = per_clip * min(clips, 4) + slack * per_clip * max(0, clips - 4)
        compiled.append(plan_of(config, int(needed)))
        return compiled[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "make_plan", fake)
        found = plans.largest_batch(tiny_config, [None] * 4, TPUS["v5e"])
    if found is None:
        assert not compiled[0].fits
    else:
        assert found.fits
        assert any(found is plan for plan in compiled)
        # Not far below the limit: a few clips, or a tenth, more would not fit.
        clips = found.config.optim.global_batch // 4
        assert len(compiled) <= 2 + plans.SWEEPS
        assert (1.1 * clips + 4) * per_clip * max(1, slack) > 0.92 * 2**34 - 1.1e9


@pytest.fixture(scope="module")
def tiny_config():
    from configs import demo

    return demo.get_config()


def test_what_bounds_a_step(tiny_config):
    sent = [Collective("all-gather", ("bf16[8]",), 2 * 10**9, 100, 4)]
    plan = plan_of(tiny_config, 10**9, sent=sent)
    bounds = plan.bounds()
    assert bounds["links"] == pytest.approx(3 / 4 * 200e9 / 200e9)
    assert bounds["memory"] == pytest.approx((2 * 1e9 + 2 * 200e9) / 819e9)
    assert bounds["compute"] == pytest.approx(3e12 * 16 / 4 / 197e12)
    assert plan.seconds()[0] == bounds["links"]


@pytest.mark.parametrize(("devices", "speed"), [(8, 450e9), (16, 400e9), (64, 400e9)])
def test_gpus_of_several_machines_send_through_their_network_cards(devices, speed):
    assert GPUS["h100"].send(devices) == speed
    assert TPUS["v5e"].send(devices) == 200e9


def test_what_does_not_fit_comes_with_ways_out(tiny_config):
    plan = plan_of(tiny_config, 20 * 10**9)
    said = plans.verdict(plan)
    assert said.startswith("does not fit: 122% of a chip's memory; try model.remat=attention")
    assert "microbatches=2" in said
    assert "more chips" in said
