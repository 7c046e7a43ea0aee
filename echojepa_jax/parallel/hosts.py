"""Several processes that run one program: how they connect, agree, and end together.

Every process ("host") runs the same program with the same flags. Only the first host writes logs
and files. If a host ends early, the others read its reason from the coordinator's key-value store
and end as well.
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

# A host that does not answer for this long is considered dead, and all others end.
HEARTBEAT_SECONDS = 60
_END, _LEAVING = "echojepa/end", "echojepa/leaving"
# Words in the errors of JAX's collectives and of Orbax when another host has disappeared.
_LOST = re.compile(
    r"gloo|nccl|connection|UNAVAILABLE|DEADLINE_EXCEEDED|heartbeat|barrier", re.IGNORECASE
)
PEER_LOST = 75
"""Exit code of a host after another host disappeared: the job can be retried (EX_TEMPFAIL)."""

_connected = threading.Event()  # set when this host is connected to the others
_ending = threading.Lock()  # held by the thread that ends this process
# How long a host waits for the others before it exits: after an early end, and after a normal end.
_EARLY_SECONDS, _FINISH_SECONDS = 10, 300
_LAST_SECONDS = 1.0  # how much later than the others the coordinator exits


def start(host: int, hosts: int, coordinator: str) -> None:
    """Connects this process to the other hosts, if there are any. Call it before using devices.

    Args:
      host: number of this host, from 0.
      hosts: number of hosts; 0 = read it from SLURM (`srun`) or GKE, else 1; -1 = ask the cluster
        (TPU VMs answer).
      coordinator: "ADDRESS:PORT" of host 0.

    Raises:
      UserError: the numbers do not fit, or the other hosts or the devices cannot be reached.
    """
    if (hosts < 1 and (host or coordinator)) or (hosts == 1 and host):
        raise UserError(
            f"--host={host} --coordinator={coordinator or '(none)'} needs the number of all "
            f"hosts, not --hosts={hosts}: set --hosts to 2 or more"
        )
    if hosts == 0:
        several = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1
        several |= "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
        several |= int(os.environ.get("MEGASCALE_NUM_SLICES", "1")) > 1
        hosts = -1 if several else 1
    if hosts == 1:
        return
    if hosts > 1 and (not coordinator or not 0 <= host < hosts):
        raise UserError(
            f"--hosts={hosts} needs --coordinator=ADDRESS:PORT of host 0 and --host=0 to "
            f"{hosts - 1}, not --host={host} --coordinator={coordinator or '(none)'}"
        )
    # When a host dies without a message, JAX prints a sentence on the others and aborts them. The
    # interpreter's traceback would hide this sentence.
    faulthandler.disable()
    # JAX's handler of SIGTERM would drop the signal before training; the loop handles it itself.
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
        raise UserError(
            f"the other hosts cannot be reached ({reason}): check --coordinator and the network"
        ) from error
    _connected.set()
    # Before devices are used: if that fails, the other hosts must be informed.
    threading.Thread(target=_leave_with_others, daemon=True).start()
    default_backend()
    if not is_first():
        logging.getLogger().setLevel(logging.WARNING)
    log.info("%d hosts with %d devices", jax.process_count(), jax.device_count())


def _gpus_of_task(environment: Mapping[str, str]) -> list[int] | None:
    """All GPUs of the node, if SLURM has started a single task there; None = let JAX decide.

    JAX gives one GPU to each SLURM task, which would leave the others idle.
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
    """Whether `mine` is true on all hosts."""
    return bool(np.all(multihost_utils.process_allgather(np.array(mine))))


def any_true(mine: bool) -> bool:
    """Whether `mine` is true on at least one host."""
    return mine if jax.process_count() == 1 else not all_true(not mine)


def same_everywhere(text: str) -> bool:
    """Whether all hosts have the same text, such as a fingerprint."""
    first = multihost_utils.broadcast_one_to_all(np.frombuffer(text.encode(), np.uint8))
    return all_true(np.asarray(first).tobytes() == text.encode())


def total(mine: np.ndarray) -> np.ndarray:
    """The sum of an array over all hosts; its shape is the same on all of them."""
    if jax.process_count() == 1:
        return mine
    # Sent as bytes, because JAX would convert float64 to float32.
    shares = multihost_utils.process_allgather(np.frombuffer(mine.tobytes(), np.uint8))
    parts = [np.frombuffer(share.tobytes(), mine.dtype).reshape(mine.shape) for share in shares]
    return np.sum(parts, axis=0)


def _state() -> Any:
    """JAX's state of the connection to other hosts, which works even if no device does.

    JAX has no public function for it.
    """
    from jax._src import distributed

    return distributed.global_state


def _client() -> Any:
    """JAX's connection to the coordinator and its key-value store; None without other hosts."""
    return _state().client if _connected.is_set() else None


def _is_coordinator() -> bool:
    """Whether this process is the coordinator, host 0 as JAX was started."""
    return _state().service is not None


def fail(reason: str) -> None:
    """Sends the reason to the other hosts, waits for them, and ends this process with code 1.

    Does nothing if this process is alone.
    """
    _end_all(1, reason)


def finish() -> None:
    """Ends this process with code 0 when all hosts have finished.

    Does nothing if this process is alone. (JAX's own shutdown has a race: if the first host closes
    its coordinator a little early, other hosts abort.)
    """
    if client := _client():
        with _ending:
            _leave(client, 0, _FINISH_SECONDS)


def leave(last_line: str) -> None:
    """Ends all hosts with code 0 and the same last line; for times when no step is being made.

    Does nothing if this process is alone.
    """
    _end_all(0, last_line)


def _end_all(code: int, reason: str) -> None:
    client = _client()
    if client is None:
        return
    with _ending:  # never released: a second thread waits here until the process ends
        try:
            client.key_value_set(_END, f"{code} host {_state().process_id}: {reason}")
        except jax.errors.JaxRuntimeError:  # another host was first, or has disappeared
            if code == 0:
                with contextlib.suppress(jax.errors.JaxRuntimeError):
                    _follow(client, client.key_value_try_get(_END))
        if code == 0 and _is_coordinator():
            _print_last(reason, sys.stdout)
        _leave(client, code)


def fail_unexpectedly(error: Exception) -> None:
    """As `fail`, for an unexpected error: prints its traceback.

    Ends this process with PEER_LOST if the error is that another host has disappeared.

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
    with _ending:  # waits if another thread ends this process because all hosts end together
        # The lost host gave no reason and will not reach the barrier, where JAX would abort.
        line = f"error: another host has disappeared ({text}); the same command continues the run"
        print(line, file=sys.stderr)
        sys.stderr.flush()
        os._exit(PEER_LOST)


def _leave_with_others() -> None:
    """Ends this process as soon as another host has given the reason why it ends."""
    client = _client()
    while True:
        # Polled, because a thread that blocks inside the client would keep the program from ending.
        time.sleep(0.5)
        try:
            message = client.key_value_try_get(_END)
            break
        except jax.errors.JaxRuntimeError:
            pass  # nothing has ended yet
    with _ending:
        _follow(client, message)


def _follow(client: Any, message: str) -> None:
    """Ends this process with the exit code and reason of another host."""
    code, _, host_and_reason = message.partition(" ")
    if code != "0":
        _print_last(f"error: {host_and_reason}", sys.stderr)
    elif _is_coordinator():
        _print_last(host_and_reason.partition(": ")[2], sys.stdout)
    _leave(client, int(code))


def _print_last(line: str, file: TextIO) -> None:
    """Prints the last line, and silences the logs of threads that still run."""
    logging.disable()
    print(line, file=file, flush=True)


def _leave(client: Any, code: int, seconds: int = _EARLY_SECONDS) -> None:
    """Ends this process when the other hosts have reached this point too, or do not answer."""
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        client.wait_at_barrier(_LEAVING, seconds * 1000)
    if _is_coordinator():
        time.sleep(_LAST_SECONDS)  # hosts that are still connected when it exits would abort
    os._exit(code)  # a normal exit would wait for the other hosts
