"""How a program ends when it is asked to stop: at once, or after the current step.

It is asked by a signal, or by the notice that a Google Cloud machine gives in its metadata about
half a minute before it is taken away (spot machines, maintenance).
"""

import logging
import os
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any, NoReturn

log = logging.getLogger(__name__)

NOTICE_SECONDS = 3.0  # between two requests of the metadata
# Values of these entries when the machine is about to be taken away.
_NOTICES = {"preempted": "TRUE", "maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE"}


INTERRUPTED = 130
"""Exit code after Ctrl-C, as in a shell."""

TIDY_SECONDS = 5.0
"""How long a program may clean up after Ctrl-C before it is ended."""

_ending = threading.Lock()  # acquired by the thread that ends this process, and never released


class Stopped(Exception):
    """A program was asked to stop and has interrupted its work."""


def leave_on_signals(
    interrupted: Callable[[], None], stopped: Callable[[], None] | None = None
) -> None:
    """From here on Ctrl-C ends the program with code 130, and SIGTERM (see `stopped`) with code 0.

    A thread waits for the signals. Python's own handlers run only after a compilation, and the
    exception that they raise is lost if it is raised in a callback of the garbage collector, in a
    `__del__`, or in a library that drops it.

    While `stop_signal` has replaced these handlers, only its handlers run. A background job whose
    shell makes it ignore Ctrl-C continues to ignore it.

    Args:
      interrupted: prints the last line after Ctrl-C.
      stopped: prints the last line after SIGTERM, for a program that has nothing to save or to
        clean up: both signals end it at once. None: SIGTERM is not handled, and Ctrl-C raises
        KeyboardInterrupt, after which the program has TIDY_SECONDS to end by itself.
    """
    ends = {signal.SIGINT: (INTERRUPTED, interrupted)}
    if stopped is not None:
        ends[signal.SIGTERM] = (0, stopped)
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    noted: set[int] = set()

    def on_signal(number: int, _: Any) -> None:
        # The thread prints and exits: the interrupted code may hold locks that this needs.
        noted.add(number)
        if stopped is None:
            raise KeyboardInterrupt

    def listen() -> None:
        with sender:  # keeps it open
            while True:
                number = ord(receiver.recv(1))
                # Python may not have called the handler yet, or another handler is in place now.
                if number in noted or signal.getsignal(number) is on_signal:
                    if stopped is None:
                        time.sleep(TIDY_SECONDS)
                    end(*ends[signal.Signals(number)])

    for number in ends:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, on_signal)
    signal.set_wakeup_fd(sender.fileno())
    threading.Thread(target=listen, daemon=True).start()


def end(code: int, last_words: Callable[[], None]) -> NoReturn:
    """Ends this process without its `finally` blocks; a second thread that calls it waits here.

    Threads that still compute would use objects that a normal exit of Python destroys.
    """
    _ending.acquire()
    logging.disable()  # other threads still run, and nothing may come after the last line
    try:
        last_words()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def ignore_signals() -> None:
    """Ignores signals from here on: the work is done, and a late signal must not change the end."""
    _ending.acquire()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Yields a function that returns whether SIGTERM, SIGINT or a cloud's notice has arrived."""
    seen: list[str] = []
    ended = threading.Event()

    def note(what: str) -> None:
        log.warning("%s: stopping after the current work", what)
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
        # A program that was asked to stop prints its own last line and ends; only Ctrl-C may end it
        # earlier.
        again = {signal.SIGTERM: lambda *_: None, signal.SIGINT: signal.default_int_handler}
        for number, handler in before.items():
            signal.signal(number, again[number] if seen and callable(handler) else handler)


def _metadata_host() -> str:
    """The address of this machine's metadata server; "" if it is not a Google machine."""
    product = Path("/sys/class/dmi/id/product_name")
    try:
        ours = product.read_text().startswith("Google")
    except OSError:
        ours = False
    # Google's own libraries read another address from this variable.
    return os.environ.get("GCE_METADATA_HOST", "metadata.google.internal" if ours else "")


def _notice(host: str) -> str:
    """Why this machine will be taken away; "" if it stays or the server does not answer."""
    for entry, alarm in _NOTICES.items():
        url = f"http://{host}/computeMetadata/v1/instance/{entry}"
        request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
        try:
            with urllib.request.urlopen(request, timeout=NOTICE_SECONDS) as answer:
                if answer.read().decode().strip() == alarm:
                    return f"the machine's metadata contain {entry}={alarm}"
        except (OSError, HTTPException, ValueError):
            continue  # requested again in a moment
    return ""
