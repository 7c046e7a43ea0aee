"""Where compiled programs are kept."""

import os
import sys

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from echojepa_jax.runtime import platform
from tests.programs import run_code

pytestmark = pytest.mark.slow


@pytest.fixture
def cache_settings(monkeypatch):
    """What a test changes of JAX's cache goes back."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    platform.compilation_cache.reset_cache()


@pytest.mark.parametrize("in_bucket", [False, True])
def test_programs_are_kept_where_all_hosts_see_them(cache_settings, request, tmp_path, in_bucket):
    folder = request.getfixturevalue("bucket") / "run" if in_bucket else epath.Path(tmp_path)
    jax.jit(lambda x: x + 1)(1.0)  # JAX has decided about its cache before
    platform._keep_programs(folder)
    jax.jit(lambda x: jnp.sin(x) + 25)(1.0)
    assert any(path.name.endswith("-cache") for path in (folder / "compiled").iterdir())


ASK = """
from echojepa_jax.runtime import platform
from echojepa_jax.utils.errors import UserError
try:
    platform.configure_jax()
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("cuda,cpu", "JAX cannot compute on cuda (no such device)"),
        ("cuda", "JAX cannot compute on cuda ("),
        ("tpu,cpu", "JAX cannot compute on tpu ("),
        ("cpu", ""),
    ],
)
def test_cpus_do_not_stand_in_for_an_accelerator(asked, said):
    environment = os.environ | {"JAX_PLATFORMS": asked, "TPU_SKIP_MDS_QUERY": "1"}
    done = run_code(ASK, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(said)
    assert bool(done.stdout) == bool(said)


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({}, {"XLA_CLIENT_MEM_FRACTION": "0.9"}),
        ({"XLA_CLIENT_MEM_FRACTION": "0.5"},) * 2,
        ({"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"},) * 2,
    ],
)
def test_memory_is_taken_under_one_name(monkeypatch, given, left):
    names = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
    for name in names:
        monkeypatch.setenv(name, "")  # so that what the test sets goes with it
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    platform.reserve_gpu_memory()
    assert {name: os.environ[name] for name in names if name in os.environ} == left


def test_whoever_has_named_a_folder_keeps_it(cache_settings, monkeypatch, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "mine"))
    platform._keep_programs(epath.Path(tmp_path))
    assert jax.config.jax_compilation_cache_dir == before


FAULTS = """
import resource
from echojepa_jax.runtime import platform
platform.configure_jax()
import jax, jax.numpy as jnp

@jax.jit
def large(x):  # a temporary of 64 MB
    return (x @ x.T) @ x

x = jnp.ones((4096, 8))
faults = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    large(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_temporaries_of_a_step_are_not_mapped_anew():
    """On CPUs; each page of 4 kB that is new costs a fault."""
    # One device, and nothing that other tests have set.
    env = {"PATH": os.environ["PATH"], "JAX_PLATFORMS": "cpu"}
    done = run_code(FAULTS, env=env)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2000
