"""Several processes that run one program: how they find each other, agree, and end together.

Every process ("host") runs the same program with the same flags. Only the first one speaks, in logs
and in files. If one ends early, its reason reaches the others through the coordinator's table of
keys, and all end.
"""

import contextlib
import faulthandler
import logging
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any, TextIO

import jax
import numpy as np
from jax.experimental import multihost_utils

from echojepa_jax.runtime.platform import default_backend
from echojepa_jax.utils.errors import UserError, first_line

log = logging.getLogger(__name__)

# A host that does not answer for so long is taken for dead, and all others end.
HEARTBEAT_SECONDS = 60
_END, _LEAVING = "echojepa/end", "echojepa/leaving"
# What JAX's collectives and Orbax say when the other end of a connection has gone.
_LOST = re.compile(
    r"gloo|nccl|connection|UNAVAILABLE|DEADLINE_EXCEEDED|heartbeat|barrier", re.IGNORECASE
)
PEER_LOST = 75
"""Exit code of a host after another host disappeared: the job is worth a retry (EX_TEMPFAIL)."""

_connected = threading.Event()  # with the other hosts
_ending = threading.Lock()  # held by the thread that ends this process
# How long a host waits for the others: when it ends early, and when it has come to its end.
_HEARD_SECONDS, _FINISH_SECONDS = 10, 300
_LAST_SECONDS = 1.0  # by which the coordinator outlives the others


def start(host: int, hosts: int, coordinator: str) -> None:
    """Connects this process with the others, if there are any. Comes before any device is used.

    Args:
      host, hosts, coordinator: this process's number, how many there are, and "address:port" of
        number 0. hosts = 0: as SLURM's `srun` or GKE tell, else this process is alone. hosts = -1:
        ask the cluster (TPU VMs answer).

    Raises:
      UserError: the numbers do not fit, the others cannot be reached, or a device cannot.
    """
    if (hosts < 1 and (host or coordinator)) or (hosts == 1 and host):
        raise UserError(
            f"--host={host} --coordinator={coordinator or '(none)'} needs the number of all "
            f"hosts, which --hosts={hosts} does not tell"
        )
    if hosts == 0:
        told = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1
        told |= "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
        told |= int(os.environ.get("MEGASCALE_NUM_SLICES", "1")) > 1
        hosts = -1 if told else 1
    if hosts == 1:
        return
    if hosts > 1 and (not coordinator or not 0 <= host < hosts):
        raise UserError(
            f"--hosts={hosts} needs --coordinator=ADDRESS:PORT of host 0 and --host=0 to "
            f"{hosts - 1}, not --host={host} --coordinator={coordinator or '(none)'}"
        )
    # Where a host dies without a word, JAX ends the others with a sentence, by an abort: the
    # interpreter's own report of where it was at that time would bury it.
    faulthandler.disable()
    # Its handler of SIGTERM would swallow the signal before training: the loop has its own way.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    known = hosts > 1
    try:
        jax.distributed.initialize(
            coordinator if known else None,
            hosts if known else None,
            host if known else None,
            local_device_ids=None if known else _gpus_of_task(os.environ),
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        reason = first_line(error)
        raise UserError(f"the other hosts cannot be reached: {reason}") from error
    _connected.set()
    # Before any device is asked for: where that fails, the others must hear of it.
    threading.Thread(target=_leave_with_others, daemon=True).start()
    default_backend()
    if not is_first():
        logging.getLogger().setLevel(logging.WARNING)
    log.info("%d hosts with %d devices", jax.process_count(), jax.device_count())


def _gpus_of_task(environment: Mapping[str, str]) -> list[int] | None:
    """All GPUs of the node for the only task that SLURM has started there; None = as JAX decides.

    JAX gives each task of SLURM's one GPU, and would leave the others idle.
    """
    alone = re.fullmatch(r"1(\(x\d+\))?", environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
    gpus = environment.get("SLURM_GPUS_ON_NODE", "")
    return list(range(int(gpus))) if alone and gpus.isdecimal() else None


def is_first() -> bool:
    """Whether this is the process that writes files and logs."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until all hosts have reached this point."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def all_true(mine: bool) -> bool:
    """Whether it is true on all hosts."""
    return bool(np.all(multihost_utils.process_allgather(np.array(mine))))


def any_true(mine: bool) -> bool:
    """Whether it is true on at least one host."""
    return mine if jax.process_count() == 1 else not all_true(not mine)


def same_everywhere(text: str) -> bool:
    """Whether all hosts have the same text, such as a fingerprint."""
    first = multihost_utils.broadcast_one_to_all(np.frombuffer(text.encode(), np.uint8))
    return all_true(np.asarray(first).tobytes() == text.encode())


def total(mine: np.ndarray) -> np.ndarray:
    """The sum over hosts of arrays of one shape."""
    if jax.process_count() == 1:
        return mine
    # As bytes: JAX would make float32 of float64.
    shares = multihost_utils.process_allgather(np.frombuffer(mine.tobytes(), np.uint8))
    parts = [np.frombuffer(share.tobytes(), mine.dtype).reshape(mine.shape) for share in shares]
    return np.sum(parts, axis=0)


def _state() -> Any:
    """What JAX knows of the other hosts without any device, which it may have failed to reach.

    There is no public way to it.
    """
    from jax._src import distributed

    return distributed.global_state


def _client() -> Any:
    """JAX's connection to the coordinator and its table of keys; None without other hosts."""
    return _state().client if _connected.is_set() else None


def _is_coordinator() -> bool:
    """Whether the others are connected through this process: host 0, as JAX was started."""
    return _state().service is not None


def fail(reason: str) -> None:
    """Tells the other hosts why, waits until they have heard, and ends this process with code 1.

    Does nothing if this process is alone.
    """
    _end_all(1, reason)


def finish() -> None:
    """Ends this process with code 0 when all hosts have come to their end.

    Does nothing if this process is alone. (JAX's own way out is a race: where the first host closes
    its coordinator a little early, others abort.)
    """
    if client := _client():
        with _ending:
            _leave(client, 0, _FINISH_SECONDS)


def leave(last_line: str) -> None:
    """Ends all hosts with code 0, and the same last line, where no step is under way.

    Does nothing if this process is alone.
    """
    _end_all(0, last_line)


def _end_all(code: int, reason: str) -> None:
    client = _client()
    if client is None:
        return
    with _ending:  # for good: whoever comes second waits for the end of the process
        try:
            client.key_value_set(_END, f"{code} host {_state().process_id}: {reason}")
        except jax.errors.JaxRuntimeError:  # another host was first, or is gone
            if code == 0:
                with contextlib.suppress(jax.errors.JaxRuntimeError):
                    _follow(client, client.key_value_try_get(_END))
        if code == 0 and _is_coordinator():
            _say_last(reason, sys.stdout)
        _leave(client, code)


def fail_unexpectedly(error: Exception) -> None:
    """The same for any other error: prints its traceback; exits with PEER_LOST if a host is gone.

    Does nothing if this process is alone.
    """
    client = _client()
    if client is None:
        return
    text = first_line(error, longest=5000)
    lost = isinstance(error, TimeoutError | jax.errors.JaxRuntimeError) and _LOST.search(text)
    if not lost:
        traceback.print_exception(error)
        fail(f"{type(error).__name__}: {text}")
    with _ending:  # unless all are ending, as agreed, and the other one was quicker
        # It has not said why, and will not come to the barrier: JAX would abort whoever waits.
        print(f"error: another host is gone ({text}); the same command continues", file=sys.stderr)
        sys.stderr.flush()
        os._exit(PEER_LOST)


def _leave_with_others() -> None:
    """Ends this process as soon as another host has said why it ends."""
    client = _client()
    while True:
        # Asked again and again: a thread that waits inside of the client could not be left behind
        # when the program ends.
        time.sleep(0.5)
        try:
            said = client.key_value_try_get(_END)
            break
        except jax.errors.JaxRuntimeError:
            pass  # nothing has ended yet
    with _ending:
        _follow(client, said)


def _follow(client: Any, said: str) -> None:
    """Ends this process as another host has said."""
    code, _, who_and_why = said.partition(" ")
    if code != "0":
        _say_last(f"error: {who_and_why}", sys.stderr)
    elif _is_coordinator():
        _say_last(who_and_why.partition(": ")[2], sys.stdout)
    _leave(client, int(code))


def _say_last(line: str, file: TextIO) -> None:
    """Prints the last line; the other threads go on, and have nothing to say any more."""
    logging.disable()
    print(line, file=file, flush=True)


def _leave(client: Any, code: int, seconds: int = _HEARD_SECONDS) -> None:
    """Ends this process when the other hosts have come here too, or do not answer."""
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        client.wait_at_barrier(_LEAVING, seconds * 1000)
    if _is_coordinator():
        time.sleep(_LAST_SECONDS)  # whoever is still connected when it goes, aborts
    os._exit(code)  # the ordinary way out waits for the other hosts
