"""What the compiler for GPUs is told, and what is said where it is not installed."""

import inspect
import re

import jax
import numpy as np
import pytest

from echojepa_jax.costs import gpu
from echojepa_jax.costs.chips import GPUS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", GPUS)
def test_every_gpu_is_described(name):
    text = gpu.target_config(name)
    fields = dict(re.findall(r"(\w+): ([^\s}]+)", text))
    assert text.count("{") == text.count("}")
    assert int(fields["device_memory_size"]) == GPUS[name].memory
    assert int(fields["memory_bandwidth"]) == GPUS[name].bandwidth
    assert int(fields["shared_memory_per_block_optin"]) < int(fields["shared_memory_per_core"])
    capability = re.search(r"major: (\d) minor: (\d)\s+feature_extension: (\w+)", text)
    wanted = ("8", "0", "NONE") if name == "a100" else ("9", "0", "ACCELERATED_FEATURES")
    assert capability.groups() == wanted
    # The peak of float32 by these facts is the data sheet's, in TFLOP/s.
    peak = 2 * int(fields["core_count"]) * int(fields["fpus_per_core"])
    sheet = {"a100": 19.5, "h100": 66.9, "h200": 66.9}[name]
    assert peak * float(fields["clock_rate_ghz"]) / 1e3 == pytest.approx(sheet, rel=0.01)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NotImplementedError("topology not implemented"), "JAX's CUDA plugin is not installed; "),
        (RuntimeError("INTERNAL: libdevice not found at ./x"), "the compiler does not find libdev"),
        (RuntimeError("Neither ptxas/nvlink nor\nanything"), "the compiler does not find ptxas; "),
        (RuntimeError("something else\nand more"), "something else; "),
    ],
)
def test_why_nothing_is_compiled_is_a_sentence(error, reason, monkeypatch):
    def fails(**_):
        raise error

    monkeypatch.setattr(gpu.topologies, "get_topology_desc", fails)
    with pytest.raises(gpu.NoCompilerError) as raised:
        gpu.gpu_devices("h100", 8)
    assert str(raised.value).startswith(reason)
    assert "pip install jax-cuda13-plugin==" in str(raised.value)
    assert "\n" not in str(raised.value)


class FakeMesh:
    def __init__(self, name):
        self.devices = np.array([type("Device", (), {"device_kind": gpu.CARDS[name].name})()])


def test_jax_is_answered_for_a_while_about_the_gpu_that_is_not_there():
    from jax._src.cudnn import fused_attention_stablehlo as asked

    names = ("check_cudnn_version", "check_compute_capability", "is_cuda_compute_capability_equal")
    before = [getattr(asked, name) for name in names]
    # What stands in has the parameters of what it stands for.
    counts = [len(inspect.signature(function).parameters) for function in before]
    assert counts == [0, 1, 1]

    def answers(name):
        with gpu.cudnn_is_there(FakeMesh(name)):
            assert asked.check_cudnn_version() == 91200
            assert asked.check_compute_capability("8.0")
            assert not asked.is_cuda_compute_capability_equal("10.3")
            if not asked.check_compute_capability("9.0"):
                raise KeyError("too old")

    answers("h200")
    assert [getattr(asked, name) for name in names] == before
    with pytest.raises(KeyError):
        answers("a100")
    assert [getattr(asked, name) for name in names] == before


def test_attention_of_cudnn_is_traced_for_a_gpu_that_is_not_there():
    """The private functions are still those that JAX asks: it finds no cuDNN here without them."""
    shape = jax.ShapeDtypeStruct((2, 64, 4, 32), jax.numpy.bfloat16)

    def traced():
        def attend(x):
            return jax.nn.dot_product_attention(x, x, x, implementation="cudnn").sum()

        lowered = jax.jit(jax.grad(attend)).trace(shape).lower(lowering_platforms=("cuda",))
        return lowered.as_text()

    with pytest.raises(RuntimeError, match="cuDNN"):
        traced()
    with gpu.cudnn_is_there(FakeMesh("h100")):
        text = traced()
    assert "__cudnn$fmhaSoftmaxBackward" in text
