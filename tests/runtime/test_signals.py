"""A cloud's notice that the machine will go asks to stop, as a signal does."""

import http.server
import subprocess
import sys
import threading
import time
from typing import ClassVar

import pytest

from echojepa_jax.runtime import signals
from echojepa_jax.runtime.signals import stop_signal
from tests import programs


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
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "complete\n"), done.stderr


PROGRAM = """
import os, signal, sys, threading, time
from echojepa_jax.runtime.signals import leave_on_sigterm, stop_signal

ending = threading.Lock()

def last_words():
    with ending:
        time.sleep(0.5)
        print("left", flush=True)

def ready():
    print("ready", flush=True)

leave_on_sigterm(last_words)
"""


@pytest.mark.parametrize(
    ("does", "code", "said"),
    [
        # Three signals, and its last words are said once.
        ("ready(); time.sleep(60)", 0, ["left"]),
        # It is ending for another reason, and signals do not keep it from doing so.
        ("ending.acquire(); ready(); time.sleep(2); os._exit(1)", 1, []),
        # It has been asked in another way: what it is at goes on to its end.
        (
            "with stop_signal() as asked:\n"
            "    ready()\n"
            "    while not asked(): time.sleep(0.05)\n"
            "time.sleep(2)",
            0,
            [],
        ),
    ],
)
def test_signals_upon_signals_end_a_program_once(does, code, said):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM + does], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    for _ in range(3):
        process.terminate()
        time.sleep(0.2)
    out, _ = process.communicate(timeout=programs.TIMEOUT)
    assert (process.returncode, out.split()) == (code, said)
