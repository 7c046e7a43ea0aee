"""What every process that works for another one needs: to end when that one is gone."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Ends this process as soon as its parent is gone, however that has ended.

    Pools would wait for ever: each worker holds both ends of the queue that it reads from.
    """
    threading.Thread(target=_await_parent, daemon=True).start()


def _await_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in workers only"
    parent.join()
    os._exit(1)
