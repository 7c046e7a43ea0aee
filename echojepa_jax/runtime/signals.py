"""How a program ends when it is asked to: at once, or after the step that is under way.

A signal asks for it, or the notice that a Google Cloud machine gives in its metadata about half a
minute before it is taken away (spot machines, maintenance).
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

NOTICE_SECONDS = 3.0  # between two looks at the metadata
# What these entries say when the machine is about to go.
_NOTICES = {"preempted": "TRUE", "maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE"}


INTERRUPTED = 130
"""Exit code after Ctrl-C, as of a shell."""

TIDY_SECONDS = 5.0
"""How long a program may tidy up after Ctrl-C before it is ended."""

_ending = threading.Lock()  # taken by the thread that ends this process, and kept


class Stopped(Exception):
    """A program was asked to stop, and left what it was at."""


def leave_on_signals(
    interrupted: Callable[[], None], stopped: Callable[[], None] | None = None
) -> None:
    """From here on Ctrl-C ends the program with code 130, and SIGTERM with code 0 if asked.

    A thread listens to the signals. Python's own handlers wait until a compilation is over, and the
    exception that they raise is lost if it falls into a callback of the garbage collector, into a
    `__del__`, or into a library that drops it.

    While `stop_signal` has replaced these handlers, its own act alone. A background job whose shell
    makes it ignore Ctrl-C goes on ignoring it.

    Args:
      interrupted: prints the last words after Ctrl-C.
      stopped: prints those after SIGTERM, for a program that has nothing to save or to tidy up:
        both signals end it at once. None: SIGTERM is not handled, and Ctrl-C raises
        KeyboardInterrupt, after which the program has TIDY_SECONDS to end by itself.
    """
    ends = {signal.SIGINT: (INTERRUPTED, interrupted)}
    if stopped is not None:
        ends[signal.SIGTERM] = (0, stopped)
    heard, told = socket.socketpair()
    told.setblocking(False)
    noted: set[int] = set()

    def on_signal(number: int, _: Any) -> None:
        # Printing and leaving is left to the thread: whatever was interrupted may hold the locks.
        noted.add(number)
        if stopped is None:
            raise KeyboardInterrupt

    def listen() -> None:
        with told:  # which must stay open
            while True:
                number = ord(heard.recv(1))
                # Python may not have called its handler yet, or the handler was replaced since.
                if number in noted or signal.getsignal(number) is on_signal:
                    if stopped is None:
                        time.sleep(TIDY_SECONDS)
                    end(*ends[signal.Signals(number)])

    for number in ends:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, on_signal)
    signal.set_wakeup_fd(told.fileno())
    threading.Thread(target=listen, daemon=True).start()


def end(code: int, last_words: Callable[[], None]) -> NoReturn:
    """Ends this process without its `finally` blocks, once: a second thread waits here for the end.

    Threads that still compute would use what an orderly end of Python takes apart.
    """
    _ending.acquire()
    logging.disable()  # other threads go on, and the last words come last
    try:
        last_words()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def ignore_signals() -> None:
    """The work is done: from here on no signal makes another end of it."""
    _ending.acquire()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


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
        # A program that was asked to stop is about to end, with its own last words: only Ctrl-C
        # makes it end earlier.
        again = {signal.SIGTERM: lambda *_: None, signal.SIGINT: signal.default_int_handler}
        for number, handler in before.items():
            signal.signal(number, again[number] if seen and callable(handler) else handler)


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
