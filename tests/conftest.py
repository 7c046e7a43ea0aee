"""Options, settings and fixtures that all tests share."""

import ctypes
import dataclasses
import gc
import os
import resource
import shutil
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests import programs

# Tests start over a hundred programs. Where Python must not keep compiled modules, as in many
# containers, each of them would compile its imports anew, for four of its seven seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Set before jax is imported: eight simulated devices, so that sharded programs can be tested.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), programs.QUICK, programs.simulated(8), programs.QUICK_ON_CPU]
)

# Threads of PyTorch and OpenBLAS that wait for each other keep a core busy, which other tests need.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import fsspec
import jax
import orbax.checkpoint as ocp
import pytest
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

import echojepa_jax  # noqa: F401  it sets what fsspec reads when it is imported
from echojepa_jax.phantom.dataset import generate
from tests.makers.configs import SHRINK
from tests.makers.recordings import FOLDER, Fixture

jax.devices()  # JAX has read its flags now, and the compiler for TPUs will find those it knows
os.environ["XLA_FLAGS"] = os.environ["XLA_FLAGS"].removesuffix(programs.QUICK_ON_CPU)
# JAX looks here as well when it names a compiled program in its cache. With all the flags, programs
# that tests start find what was compiled here.
sys.argv += programs.QUICK_ON_CPU.split()

# Traced programs are many objects and no garbage, for which Python would look every 700 objects.
gc.set_threshold(50_000)

# A shell that starts tests in the background makes them and their processes ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--train-fixture",
        type=Path,
        help="recorded training steps of the original code (npz); default: the shipped ones",
    )
    parser.addoption(
        "--probe-fixture",
        type=Path,
        default=FOLDER / "probes_tiny.npz",
        help="recorded probes of the original PyTorch code (npz)",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Without slow tests, files of slow tests are not imported: they need more packages."""
    slow = "\npytestmark = pytest.mark.slow\n"
    if config.option.markexpr == "not slow" and collection_path.suffix == ".py":
        return slow in collection_path.read_text() or None
    return None


# The longest files come first: a long file at the end would leave the other process idle.
_LONGEST = (
    "test_main",
    "test_hosts",
    "test_step_parity",
    "test_run",
    "test_failure_modes",
    "test_tpu_time",
    "test_notebook",
    "test_sharded",
    "test_plan",
    "test_suite",
    "test_step",
    "test_prepare",
    "test_workdir",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: rank for rank, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session")
def probe_fixture(request: pytest.FixtureRequest) -> Fixture:
    return Fixture(request.config.getoption("--probe-fixture"))


@pytest.fixture(scope="session")
def s3_server():
    """An S3 server on this machine, for this process and its child processes."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    keys = {"AWS_ACCESS_KEY_ID": "mine", "AWS_SECRET_ACCESS_KEY": "mine"}
    with pytest.MonkeyPatch.context() as patch:
        region = {"AWS_DEFAULT_REGION": "us-east-1"}
        for name, value in ({"AWS_ENDPOINT_URL": address} | keys | region).items():
            patch.setenv(name, value)
        yield
    server.stop()


@pytest.fixture
def bucket(s3_server, cache, tmp_path, monkeypatch):
    """An empty bucket, s3://..., with a cache that contains nothing but phantoms."""
    name = f"s3://bucket-{uuid.uuid4()}"
    fsspec.filesystem("s3").mkdir(name)
    mine = tmp_path / "cache"
    mine.mkdir()
    for phantom in cache.glob("phantom-*"):
        (mine / phantom.name).symlink_to(phantom)
    monkeypatch.setenv("ECHOJEPA_CACHE", str(mine))
    return epath.Path(name)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of this test run: generated videos and scans of files."""
    folder = _shared(tmp_path_factory, "cache")
    os.environ["ECHOJEPA_CACHE"] = str(folder)
    return folder


def _shared(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder that all processes of this test run share (pytest-xdist)."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    (root / name).mkdir(exist_ok=True)
    return root / name


@pytest.fixture(scope="session", autouse=True)
def compilations(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A cache of compiled programs, so that tests and their processes compile each of them once."""
    settings = {
        "jax_compilation_cache_dir": str(_shared(tmp_path_factory, "compilations")),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    """After each test file, its programs are forgotten, and freed memory goes back to the system.

    Programs that run in this process have set the allocator to keep it (runtime/allocator.py); over
    all files, it would grow to 8 GB.
    """
    yield
    jax.clear_caches()
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # of glibc
        trim(0)


def _changed(config, changes):
    """The shrunken config, with further changes by section__field."""
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    config.update_from_flattened_dict(SHRINK | changes)
    return config


@pytest.fixture(scope="session")
def runs_of_one_config() -> Iterator[None]:
    """Runs of one config share the traced and compiled step, as long as they share the process."""
    from echojepa_jax.train import loop, program

    made: dict[Any, Any] = {}

    def make_once(config: ConfigDict, mesh: Mesh, *channels: int) -> Any:
        if type(config) is not ConfigDict:  # it counts who reads it
            return program.make_program(config, mesh, *channels)
        shapes = config.to_dict()
        for what_only_the_loop_reads in ("checkpoint", "log", "probe", "init"):
            del shapes[what_only_the_loop_reads]
        del shapes["optim"]["max_skipped"]
        of_clips = ("frames", "size", "mean", "std", "padded")
        shapes["data"] = {name: shapes["data"][name] for name in of_clips}
        # A test may have put another step in place.
        key = (repr(shapes), mesh, channels, program.train_step)
        if key not in made:
            made[key] = program.make_program(config, mesh, *channels)
        return dataclasses.replace(made[key], config=config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_program", make_once)
        for name in ("compile", "compile_init"):
            patch.setattr(program.Program, name, _once(getattr(program.Program, name)))
        # Else a checkpoint is written in 600 pieces: of every array, each device writes an eighth.
        arrays = ocp.type_handlers.get_type_handler(jax.Array)
        patch.setattr(arrays, "_min_slice_bytes_for_replica_parallel", 2**20, raising=False)
        yield


def _once(compile: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same for every program that has the same jitted step."""
    compiled: dict[Any, Any] = {}

    def remembered(program: Any) -> Any:
        if program._step not in compiled:
            compiled[program._step] = compile(program)
        return compiled[program._step]

    return remembered


@pytest.fixture(scope="session")
def tiny(runs_of_one_config):
    """configs/demo.py, shrunken; call it with further changes by section__field."""
    from configs import demo

    return lambda **changes: _changed(demo.get_config(), changes)


@pytest.fixture(scope="session")
def tiny_images(runs_of_one_config):
    """The same for V-JEPA 2.1 on videos and images."""
    from tests.makers import demo_images

    return lambda **changes: _changed(demo_images.get_config(), changes)


@pytest.fixture(scope="session")
def trained(tiny, tmp_path_factory) -> Path:
    """The workdir of a finished run of `tiny()`; tests must not change it."""
    from echojepa_jax.main import train

    workdir = tmp_path_factory.mktemp("trained") / "run"
    train(tiny(), workdir)
    return workdir


@pytest.fixture
def finished(trained, tmp_path) -> Path:
    """A copy of `trained` that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "finished"))


@pytest.fixture
def run_main(tmp_path):
    """Runs the shrunken training program as a user does, in a process with simulated devices."""

    def run(
        *arguments,
        workdir,
        devices=1,
        config="configs/demo.py",
        wait=True,
        file_limit=None,
        environment=None,
        **changes,
    ):
        def limit_files():
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

        fields = SHRINK | {name.replace("__", "."): value for name, value in changes.items()}
        process = programs.start(
            "main",
            f"--config={config}",
            f"--workdir={workdir}",
            *programs.as_fields(fields),
            *arguments,
            devices=devices,
            environment=environment,
            preexec=limit_files if file_limit else None,
        )
        return programs.finish(process) if wait else process

    return run


@pytest.fixture(scope="session")
def hearts(tmp_path_factory) -> Path:
    """A small phantom in EchoNet-Dynamic's layout: 4 patients with 2 views, 60 frames of 64 px."""
    root = tmp_path_factory.mktemp("phantom") / "hearts"
    return generate(root, patients=4, views=2, size=64, workers=1)


@pytest.fixture(scope="session")
def videos(hearts) -> list[Path]:
    """The eight videos of `hearts`: for each patient, the A2C and the A4C view."""
    return sorted((hearts / "Videos").glob("*.avi"))
