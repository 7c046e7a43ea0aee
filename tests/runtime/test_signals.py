"""A cloud's notice that the machine will go asks to stop, as a signal does."""

import http.server
import signal
import subprocess
import sys
import threading
import time
from typing import ClassVar

import pytest

from echojepa_jax.runtime import signals
from echojepa_jax.runtime.signals import stop_signal
from tests import programs

pytestmark = pytest.mark.slow


class _Metadata(http.server.BaseHTTPRequestHandler):
    answers: ClassVar[dict[str, str]] = {}

    def do_GET(self):
        assert self.headers["Metadata-Flavor"] == "Google"
        entry = self.path.removeprefix("/computeMetadata/v1/instance/")
        self.send_response(200 if entry in self.answers else 404)
        self.end_headers()
        self.wfile.write(self.answers.get(entry, "").encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def metadata(monkeypatch):
    """The entries that a metadata server gives, which can be changed."""
    server = http.server.HTTPServer(("127.0.0.1", 0), _Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")
    monkeypatch.setattr(signals, "NOTICE_SECONDS", 0.05)
    monkeypatch.setattr(_Metadata, "answers", {})
    yield _Metadata.answers
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("entry", "value"),
    [("preempted", "TRUE"), ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE")],
)
def test_a_notice_asks_to_stop(metadata, caplog, entry, value):
    metadata.update({"preempted": "FALSE", "maintenance-event": "NONE"})
    with stop_signal() as asked:
        time.sleep(0.3)
        assert not asked()
        metadata[entry] = value
        until = time.monotonic() + 10
        while not asked():
            assert time.monotonic() < until
            time.sleep(0.02)
    assert f"{entry}={value}" in caplog.text


def test_a_server_that_fails_asks_nothing(metadata):
    with stop_signal() as asked:
        time.sleep(0.3)
        assert not asked()


def test_a_signal_after_the_last_line_changes_nothing():
    """The interpreter gives a signal back to the system before it takes its objects apart."""
    program = """
import os, signal
from echojepa_jax import command_line

class Late:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

late = Late()
command_line.run(lambda: "complete", needed=())
"""
    done = programs.run_code(program)
    assert (done.returncode, done.stdout) == (0, "complete\n"), done.stderr


LOSES_AN_INTERRUPTION = """
import ctypes, gc, os, signal, sys, time
from echojepa_jax import command_line
from echojepa_jax.runtime import signals

signals.TIDY_SECONDS = 0.5

def interrupt(*_):
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):  # Python calls its handler before the last of them
        pass

class Last:
    __del__ = interrupt

def in_garbage_collection():
    gc.callbacks.append(interrupt)
    gc.collect()
    gc.callbacks.clear()

def in_del():
    Last()

def in_c():
    ctypes.CFUNCTYPE(None)(interrupt)()

def in_a_library():
    try:
        interrupt()
    except BaseException:
        pass

def job():
    {lose}()
    time.sleep(60)
    return "complete"

command_line.run(job, needed=(){settings})
"""


@pytest.mark.parametrize(
    ("lose", "settings"),
    [
        ("in_garbage_collection", ""),
        ("in_garbage_collection", ", stopped=print"),
        ("in_del", ""),
        ("in_c", ""),
        ("in_a_library", ""),
    ],
)
def test_an_interruption_that_python_drops_ends_the_program(lose, settings):
    program = LOSES_AN_INTERRUPTION.format(lose=lose, settings=settings)
    done = programs.run_code(program)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.splitlines()[-1].startswith("error: interrupted; the same command continues")


PROGRAM = """
import os, signal, sys, threading, time
from echojepa_jax.runtime import signals
from echojepa_jax.runtime.signals import leave_on_signals, stop_signal

ending = threading.Lock()

def last_words():
    with ending:
        time.sleep(0.5)
        print("left", flush=True)

def ready():
    print("ready", flush=True)

leave_on_signals(last_words, last_words)
"""

WITH_SOMETHING_TO_TIDY_UP = """
leave_on_signals(last_words)
signals.TIDY_SECONDS = 1
try:
    ready()
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep({seconds})
    print("tidied", flush=True)
    signals.end(130, last_words)
"""


# It has been asked in another way: what it is at goes on to its end.
IN_A_LOOP = """
with stop_signal() as asked:
    ready()
    while not asked(): time.sleep(0.05)
    {}
time.sleep(1)
"""


@pytest.mark.parametrize(
    ("number", "does", "code", "said"),
    [
        # Three signals, and its last words are said once.
        (signal.SIGTERM, "ready(); time.sleep(60)", 0, ["left"]),
        (signal.SIGINT, "ready(); time.sleep(60)", 130, ["left"]),
        # It is ending for another reason, and signals do not keep it from doing so.
        (signal.SIGTERM, "ending.acquire(); ready(); time.sleep(1); os._exit(1)", 1, []),
        (signal.SIGTERM, IN_A_LOOP.format(""), 0, []),
        # After the loop Ctrl-C ends it, whatever it is at.
        (signal.SIGINT, IN_A_LOOP.format("time.sleep(1)"), 0, []),
    ],
)
def test_signals_upon_signals_end_a_program_once(number, does, code, said):
    process = _started(PROGRAM + does)
    for _ in range(3):
        process.send_signal(number)
        time.sleep(0.2)
    out, _ = process.communicate(timeout=programs.TIMEOUT)
    assert (process.returncode, out.split()) == (code, said)


@pytest.mark.parametrize(("seconds", "said"), [(0.1, ["tidied", "left"]), (60, ["left"])])
def test_ctrl_c_leaves_time_to_tidy_up(seconds, said):
    process = _started(PROGRAM + WITH_SOMETHING_TO_TIDY_UP.format(seconds=seconds))
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=programs.TIMEOUT)
    assert (process.returncode, out.split()) == (130, said)


def test_a_background_job_ignores_ctrl_c_as_its_shell_wants():
    ignored = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    process = _started(ignored + PROGRAM + "ready(); time.sleep(0.5); print('complete')")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=programs.TIMEOUT)
    assert (process.returncode, out.split()) == (0, ["complete"])


def _started(program: str) -> subprocess.Popen:
    """A program that has said that it is ready."""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process
