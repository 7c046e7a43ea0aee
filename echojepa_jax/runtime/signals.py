"""What asks a program to stop, turned into a question it asks between two steps.

That is a signal, or the notice that a Google Cloud machine gives in its metadata about half a
minute before it is taken away (spot machines, maintenance).
"""

import logging
import os
import signal
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

NOTICE_SECONDS = 3.0  # between two looks at the metadata
# What these entries say when the machine is about to go.
_NOTICES = {"preempted": "TRUE", "maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE"}


class Stopped(Exception):
    """A program was asked to stop, and left what it was at."""


def leave_on_sigterm(last_words: Callable[[], None]) -> None:
    """From here on SIGTERM ends the program at once, with code 0: where there is nothing to save.

    Python's own handlers wait until a compilation is over; this does not. Handlers that replace
    this one, as `stop_signal` does, are left alone, and this one comes back after them.
    """
    heard, told = socket.socketpair()
    told.setblocking(False)
    signal.set_wakeup_fd(told.fileno())
    noted = threading.Event()

    def on_signal(_: int, __: Any) -> None:
        noted.set()  # and nothing else: whatever the program is at may hold what leaving needs

    def listen() -> None:
        with told:
            while number := heard.recv(1):
                # Python may not have come to its handler yet, or have replaced it since.
                ours = noted.is_set() or signal.getsignal(signal.SIGTERM) is on_signal
                if number[0] == signal.SIGTERM and ours:
                    last_words()
                    os._exit(0)

    signal.signal(signal.SIGTERM, on_signal)
    threading.Thread(target=listen, daemon=True).start()


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Turns SIGTERM, SIGINT and a cloud's notice into a question the loop asks after every step."""
    seen: list[str] = []
    ended = threading.Event()

    def note(what: str) -> None:
        log.warning("%s: leaving when what is under way is done", what)
        seen.append(what)

    def on_signal(number: int, _: Any) -> None:
        note(signal.Signals(number).name)

    def await_notice(host: str) -> None:
        while not ended.wait(NOTICE_SECONDS):
            if notice := _notice(host):
                return note(notice)

    if host := _metadata_host():
        threading.Thread(target=await_notice, args=(host,), daemon=True).start()
    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield lambda: bool(seen)
    finally:
        ended.set()
        for number, handler in before.items():
            # Who was asked to stop is about to, and has words of its own for it.
            heard = seen and number == signal.SIGTERM and callable(handler)
            signal.signal(number, (lambda *_: None) if heard else handler)


def _metadata_host() -> str:
    """Where this machine's metadata are served; "" if it is not one of Google's."""
    product = Path("/sys/class/dmi/id/product_name")
    try:
        ours = product.read_text().startswith("Google")
    except OSError:
        ours = False
    # The name under which Google's own libraries look for another address.
    return os.environ.get("GCE_METADATA_HOST", "metadata.google.internal" if ours else "")


def _notice(host: str) -> str:
    """Why this machine is about to go; "" if it stays, or nobody answers."""
    for entry, alarm in _NOTICES.items():
        url = f"http://{host}/computeMetadata/v1/instance/{entry}"
        request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
        try:
            with urllib.request.urlopen(request, timeout=NOTICE_SECONDS) as answer:
                if answer.read().decode().strip() == alarm:
                    return f"the machine's metadata say {entry}={alarm}"
        except (OSError, HTTPException, ValueError):
            continue  # looked at again in a moment
    return ""
