"""Compiling for devices that this machine does not have: TPU slices, and simulated devices."""

import importlib.util
import os

import jax
from jax.experimental import topologies

from echojepa_jax.costs.chips import TPUS
from echojepa_jax.utils.errors import UserError, first_line
from echojepa_jax.utils.extras import pip_install

# The TPU compiler writes only the final schedules: 0.2 GB for a step.
_SCHEDULES = "--xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=final_bundles"


def prepare_environment(simulated: int = 0, schedules: str = "") -> None:
    """Sets up compilation without a TPU; call it before JAX initialises its devices.

    Args:
      simulated: number of CPU devices to simulate; 0 = one.
      schedules: folder where the TPU compiler writes the schedules of all that it compiles in this
        process, for the account of a program; "" = no schedules.
    """
    jax.config.update("jax_platforms", "cpu")
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    # No TPU is used, so several processes may compile.
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    if schedules:
        flags = f" --xla_jf_dump_to={schedules} {_SCHEDULES}"
        os.environ["LIBTPU_INIT_ARGS"] = os.environ.get("LIBTPU_INIT_ARGS", "") + flags
    if simulated:
        flag = f" --xla_force_host_platform_device_count={simulated}"
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + flag


def tpu_devices(topology: str) -> list[jax.Device]:
    """Descriptions of the devices of a TPU slice, such as "v5e:8x8" or "v5p:4x4x4".

    Raises:
      UserError: the slice does not exist, or the TPU compiler is not installed.
    """
    kind, _, shape = topology.partition(":")
    sizes = shape.split("x")
    flat = kind in ("v5e", "v6e")  # these have two dimensions, the others three
    if kind not in TPUS or len(sizes) != 3 - flat or not all(size.isdigit() for size in sizes):
        raise UserError(
            f"--topology={topology} is not understood: write a kind ({', '.join(TPUS)}) and its "
            "chips along each dimension, such as v5e:8x8 or v5p:4x4x4"
        )
    try:
        # The two cores of a v4 work as one device, as they do on a real one.
        cores = {"chip_config_name": "megacore"} if kind == "v4" else {}
        name = topology.replace("v7x", "tpu7x")  # libtpu's name for it
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **cores)
    # Raised without libtpu, for a shape that no slice has, or for an unknown name.
    except (RuntimeError, NotImplementedError, ValueError) as error:
        reason = first_line(error)
        missing = importlib.util.find_spec("libtpu") is None
        hint = pip_install("tpu") if missing else "try another shape"
        raise UserError(f"cannot compile for --topology={topology} ({reason}): {hint}") from error
    return list(found.devices)
