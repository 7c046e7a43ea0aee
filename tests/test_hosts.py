"""Several hosts: two processes with two simulated devices each, through the real program."""

import dataclasses
import logging
import os
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from echojepa_jax.main import train
from echojepa_jax.parallel import hosts
from echojepa_jax.train.load_weights import weights_of_run
from echojepa_jax.train.workdir import Workdir
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.metrics_writer import read_lines
from tests import programs

pytestmark = pytest.mark.slow

STEPS = 12
# Arrays divided over both hosts.
ACROSS = {"mesh__replica": 1, "mesh__fsdp": 4}
LONGER = {
    "model__depth": 1,  # all layers are alike, and every array of each is sent in every step
    "optim__updates_per_epoch": STEPS // 2,
    "checkpoint__every": 3,
    "log__health_every": 0,
}


@dataclasses.dataclass
class TwoHosts:
    """A program that runs in two processes."""

    processes: list

    def wait_for_step(self, workdir, step):
        """Returns when that step is in the metrics."""
        started = time.monotonic()
        while not any(line["step"] >= step for line in read_lines(workdir / "metrics.jsonl")):
            assert all(process.poll() is None for process in self.processes), self.finish()
            assert time.monotonic() - started < programs.TIMEOUT
            time.sleep(0.05)

    def finish(self):
        return [programs.finish(process) for process in self.processes]


@pytest.fixture
def on_two_hosts(run_main):
    """Starts main.py twice; `second` holds other environment variables of host 1."""

    def start(workdir, second=None, **changes):
        address = f"127.0.0.1:{programs.free_port()}"
        common = {"workdir": workdir, "devices": 2, "wait": False} | LONGER | ACROSS | changes
        processes = []
        for host, environment in enumerate((None, second)):
            flags = "--hosts=2", f"--host={host}", f"--coordinator={address}"
            processes.append(run_main(*flags, environment=environment, **common))
        return TwoHosts(processes)

    return start


def last_line(done):
    # Gloo, which connects hosts without accelerators, prints lines of its own at any time.
    lines = done.stdout.strip().splitlines()
    return [line for line in lines if not line.startswith("[Gloo]")][-1]


def values_of(workdir, name):
    """All values of a metric."""
    return [line[name] for line in read_lines(workdir / "metrics.jsonl") if name in line]


def arrays_of(workdir):
    """All parameters of the last checkpoint."""
    return jax.tree.leaves(dict(weights_of_run(Workdir(workdir)).params))


def assert_close(workdir, other):
    for mine, wanted in zip(arrays_of(workdir), arrays_of(other), strict=True):
        np.testing.assert_allclose(mine, wanted, atol=1e-5)


def test_two_hosts_train_as_one_does_and_survive_kills(
    on_two_hosts, run_main, tiny, tmp_path, caplog
):
    probe = {"probe__source": "phantom:adult,patients=10,views=2,seed=1"}
    whole, broken, alone = tmp_path / "whole", tmp_path / "broken", tmp_path / "alone"
    first, second = on_two_hosts(whole, **probe).finish()
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert last_line(first) == f"complete: step 12 of 12. The report is {whole}/report.html"
    assert "complete" not in second.stdout
    assert "loss" not in second.stderr  # the first host speaks for both

    # One device makes the same of it, and the probe, whose videos the hosts share, says the same.
    done = run_main(workdir=alone, **LONGER, **probe)
    assert done.returncode == 0, done.stderr
    losses = [values_of(run, "loss") for run in (whole, alone)]
    np.testing.assert_allclose(*losses, atol=1e-5)
    assert len(losses[0]) == STEPS
    assert_close(whole, alone)
    scores = [values_of(run, "probe/ef/mae") for run in (whole, alone)]
    np.testing.assert_allclose(*scores, rtol=1e-3)

    # A host that dies ends the other one, with a sentence.
    two = on_two_hosts(broken)
    two.wait_for_step(broken, 4)
    two.processes[1].kill()
    left, _ = two.finish()
    assert left.returncode in (hosts.PEER_LOST, -signal.SIGABRT)
    # JAX notices as well, and may be the first to do so.
    assert re.search("the same command continues|another task died", left.stderr)

    # A signal to one of them stops both, after the same step.
    two = on_two_hosts(broken)
    two.wait_for_step(broken, 6)
    two.processes[1].send_signal(signal.SIGTERM)
    first, second = two.finish()
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert last_line(first).startswith("stopped by a signal; saved at step ")

    # What they saved, eight devices of one host take up, in another mesh.
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(broken, elsewhere)
    with caplog.at_level(logging.INFO):
        train(tiny(mesh__replica=1, mesh__fsdp=8, **LONGER), elsewhere)
    assert "continuing with another mesh.fsdp (4 there, 8 now)" in caplog.text
    assert_close(elsewhere, whole)

    # And the hosts themselves reach the very same bits.
    first, _ = on_two_hosts(broken).finish()
    assert first.returncode == 0, first.stderr
    for mine, wanted in zip(arrays_of(broken), arrays_of(whole), strict=True):
        np.testing.assert_array_equal(mine, wanted)


def test_one_hosts_failure_ends_all_with_its_text(on_two_hosts, tmp_path):
    (tmp_path / "file").write_text("")
    second = {"ECHOJEPA_CACHE": str(tmp_path / "file" / "cache")}
    done = on_two_hosts(tmp_path / "run", second=second).finish()
    assert [process.returncode for process in done] == [1, 1]
    first, second = (process.stderr.strip().splitlines()[-1] for process in done)
    assert second.startswith("NotADirectoryError: ")
    assert first == f"error: host 1: {second}"


def test_a_host_without_its_accelerator_tells_the_others(on_two_hosts, tmp_path):
    done = on_two_hosts(tmp_path / "run", second={"JAX_PLATFORMS": "cuda"}).finish()
    assert [process.returncode for process in done] == [1, 1]
    last = done[0].stderr.strip().splitlines()[-1]
    assert last.startswith("error: host 1: JAX cannot compute on cuda")


@pytest.mark.parametrize("signalled", [[1], [1, 0]])
def test_a_signal_before_the_first_step_ends_all_in_order(on_two_hosts, tmp_path, signalled):
    two = on_two_hosts(tmp_path / "run")
    started = time.monotonic()
    while not (tmp_path / "run" / "config.json").exists():
        assert time.monotonic() - started < programs.TIMEOUT
        time.sleep(0.05)
    for host in signalled:
        two.processes[host].send_signal(signal.SIGTERM)
    first, second = two.finish()
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "stopped by a signal" not in second.stdout
    assert first.stdout.count("stopped by a signal") == 1
    assert last_line(first).startswith("stopped by a signal; nothing had to be saved")


def test_a_host_that_is_stopped_follows_one_that_has_failed_before(monkeypatch, capfd):
    class Client:
        def key_value_set(self, *_):
            raise jax.errors.JaxRuntimeError("ALREADY_EXISTS")

        def key_value_try_get(self, _):
            return "1 host 1: its disk is full"

        def wait_at_barrier(self, *_):
            pass

    def leave(code):
        raise SystemExit(code)

    monkeypatch.setattr(hosts, "_client", Client)
    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(logging, "disable", lambda: None)  # other tests go on
    with pytest.raises(SystemExit, match="1"):
        hosts.leave("stopped by a signal")
    assert capfd.readouterr() == ("", "error: host 1: its disk is full\n")


@pytest.mark.parametrize(
    ("told", "hosts_flag", "asked"),
    [
        ({}, 0, False),
        ({"SLURM_STEP_NUM_TASKS": "1"}, 0, False),
        ({"SLURM_STEP_NUM_TASKS": "16"}, 0, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, 0, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, 0, False),
        ({"MEGASCALE_NUM_SLICES": "2"}, 0, True),
        ({"SLURM_STEP_NUM_TASKS": "16"}, 1, False),
        ({}, -1, True),
    ],
)
def test_the_cluster_is_asked_where_it_has_several_hosts(monkeypatch, told, hosts_flag, asked):
    for name in ("SLURM_STEP_NUM_TASKS", "TPU_WORKER_HOSTNAMES", "MEGASCALE_NUM_SLICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    calls = []

    def initialize(*args, **kwargs):
        calls.append(args)
        raise RuntimeError("nobody answers")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(hosts.faulthandler, "disable", lambda: None)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    if asked:
        with pytest.raises(UserError, match=r"cannot be reached \(nobody answers\): check"):
            hosts.start(0, hosts_flag, "")
    else:
        hosts.start(0, hosts_flag, "")
    assert calls == [(None, None, None)] * asked


def test_a_coordinator_without_a_number_of_hosts_is_a_mistake():
    for number in (0, 1, -1):
        with pytest.raises(UserError, match="--host=3 --coordinator=a:1 needs the number of all"):
            hosts.start(3, number, "a:1")
    hosts.start(0, 1, "a:1")  # as a script says it that is written for any number


@pytest.mark.parametrize(("host", "coordinator"), [(0, ""), (2, "here:1"), (-1, "here:1")])
def test_flags_that_do_not_fit_are_a_sentence(host, coordinator):
    with pytest.raises(UserError, match=r"--hosts=2 needs --coordinator=ADDRESS:PORT of host 0"):
        hosts.start(host, 2, coordinator)


@pytest.mark.parametrize(
    ("tasks", "gpus", "found"),
    [("1(x2)", "8", list(range(8))), ("1", "2", [0, 1]), ("8(x2)", "8", None), ("1(x2)", "", None)],
)
def test_the_only_task_of_a_node_has_all_its_gpus(tasks, gpus, found):
    told = {"SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_GPUS_ON_NODE": gpus}
    assert hosts._gpus_of_task(told) == found
