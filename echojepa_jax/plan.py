"""Plan a training run before you pay for the machine: does it fit, and how long will it take?

  python -m echojepa_jax.plan --config=configs/vit_l.py --topology=v5e:8x8 --dearest=10
  python -m echojepa_jax.plan --config=configs/vit_g.py --topology=v5p:4x4x4 --sweep
  python -m echojepa_jax.plan --config=configs/vit_l.py --topology=v5e:2x2 --forward=32
  python -m echojepa_jax.plan --config=configs/vit_l.py --gpus=8 --gpu=h100
  python -m echojepa_jax.plan --config=configs/mae_l.py --gpus=8 --compare=configs/vit_l.py

Any computer can compile the training step for the named TPUs or GPUs. Memory and collectives (what
devices send each other) come from the compiled program. For TPUs, the compiler also estimates where
the time goes. Other times are estimates from data sheets.

The extra [tpu] installs the compiler for TPUs, `pip install jax-cuda13-plugin nvidia-cuda-nvcc` the
one for GPUs. Without the compiler for GPUs, collectives come from a program for the same number of
simulated devices, and memory is an estimate.
"""

import json
import runpy
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from echojepa_jax import command_line
from echojepa_jax.command_line import say

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "config of the training: a file, or the name of a shipped config, such as vit_l",
    sys_argv=command_line.for_config_flags(sys.argv),
)
TOPOLOGY = flags.DEFINE_string(
    "topology", "", "TPU slice (kind:shape): v4:2x2x4, v5e:8x8, v5p:4x4x4, v6e:4x4, v7x:2x2x1"
)
GPUS = flags.DEFINE_integer("gpus", 0, "number of GPUs, instead of --topology")
GPU = flags.DEFINE_enum("gpu", "h100", ["a100", "h100", "h200"], "kind of GPU")
SWEEP = flags.DEFINE_bool("sweep", False, "find the largest global batch that fits")
FORWARD = flags.DEFINE_integer(
    "forward", 0, "plan the encoder's forward pass on this many clips, as in embed", 0
)
DEAREST = flags.DEFINE_integer("dearest", 0, "list this many of the slowest instructions", 0)
COMPARE = flags.DEFINE_string(
    "compare", "", "another config: print how many updates of --config match its whole run"
)
MEASURED = flags.DEFINE_list(
    "measured",
    [],
    "with --compare: two files of `bench --out`, of --config and of --compare, to match the time",
)
VIDEOS = flags.DEFINE_integer(
    "videos", 0, "number of videos in your data set, to count passes over it"
)
JSON = flags.DEFINE_bool("json", False, "print JSON instead of tables")


def job() -> str:
    """Runs what the flags say; returns the last line of the program."""
    from echojepa_jax.utils.errors import UserError

    if bool(TOPOLOGY.value) == bool(GPUS.value):
        raise UserError("give either --topology or --gpus; see --help")
    if TOPOLOGY.value and flags.FLAGS["gpu"].present:
        raise UserError("--gpu is for --gpus, not for a TPU slice: leave out --gpu or --topology")
    for name in ("forward", "dearest"):
        if flags.FLAGS[name].value and not TOPOLOGY.value:
            raise UserError(f"--{name} needs the TPU compiler: give a --topology")
    if SWEEP.value and (FORWARD.value or DEAREST.value):
        raise UserError("--sweep cannot be used with --forward or --dearest: leave them out")
    if COMPARE.value and (SWEEP.value or FORWARD.value):
        raise UserError("--compare cannot be used with --sweep or --forward: leave them out")
    if MEASURED.value and not (COMPARE.value and len(MEASURED.value) == 2):
        raise UserError("--measured needs --compare and two files, separated by a comma")
    with tempfile.TemporaryDirectory() as schedules:
        return _plan(Path(schedules))


def _plan(schedules: Path) -> str:
    """Makes and prints the plan; returns its last line.

    Args:
      schedules: an empty folder for the files of the TPU compiler.
    """
    from echojepa_jax.costs import ahead

    with_account = bool(TOPOLOGY.value) and not SWEEP.value
    ahead.prepare_environment(GPUS.value, str(schedules) if with_account else "")

    import jax

    from echojepa_jax.costs import comparison, forward, gpu
    from echojepa_jax.costs import plan as plans
    from echojepa_jax.costs.chips import GPUS as GPU_CHIPS
    from echojepa_jax.costs.chips import TPUS
    from echojepa_jax.features.encode import encode_clips
    from echojepa_jax.train import config as configs

    if TOPOLOGY.value:
        devices = ahead.tpu_devices(TOPOLOGY.value)
        chip = TPUS[TOPOLOGY.value.partition(":")[0]]
    else:
        chip = GPU_CHIPS[GPU.value]
        try:
            devices = gpu.gpu_devices(GPU.value, GPUS.value)
        except gpu.NoCompilerError as error:
            say(f"memory will be an estimate: {error}")
            devices = jax.devices()
    config = CONFIG.value
    configs.fill_sources(config)
    configs.check(config, len(devices))
    if FORWARD.value:
        of_encoder = forward.make_forward(
            encode_clips, config, devices[0], chip, FORWARD.value, schedules, say
        )
        if JSON.value:
            return json.dumps(forward.as_json(of_encoder, DEAREST.value), indent=2)
        return _printed(forward.table(of_encoder, DEAREST.value))
    make = partial(plans.make_plan, schedules=schedules if with_account else None)
    found = (plans.largest_batch if SWEEP.value else make)(config, devices, chip, say)
    if found is None:
        none = "does not fit, not even with one clip per chip; try more chips, or a smaller model"
        return json.dumps({"fits": False, "verdict": none}) if JSON.value else none
    if JSON.value:
        facts = plans.as_json(found, VIDEOS.value, DEAREST.value)
        if COMPARE.value:
            facts["comparison"] = comparison.as_json(*_compared(found, devices))
        return json.dumps(facts, indent=2)
    last = _printed(plans.table(found, VIDEOS.value, DEAREST.value))
    if COMPARE.value:
        print("\n" + "\n".join(comparison.lines(*_compared(found, devices))))
    if SWEEP.value:
        return (
            f"{last}; {found.config.optim.global_batch} is the largest global batch found that fits"
        )
    return last


def _compared(found: Any, devices: Any) -> Any:
    """The arguments of `comparison.lines`: two runs, and where their times come from."""
    from echojepa_jax.costs import comparison
    from echojepa_jax.costs import plan as plans
    from echojepa_jax.train import config as configs
    from echojepa_jax.utils import shipped_configs

    file = shipped_configs.find(COMPARE.value)
    shipped_configs.let_import(file)
    other = runpy.run_path(file)["get_config"]()
    configs.fill_sources(other)
    configs.check(other, len(devices))
    mine = config_flags.get_config_filename(flags.FLAGS["config"])
    names = [Path(name).stem for name in (mine, file)]
    if MEASURED.value:
        seconds = [
            comparison.seconds_measured(Path(path), config)
            for path, config in zip(MEASURED.value, (found.config, other), strict=True)
        ]
        how = "measured"
    else:
        theirs = plans.make_plan(other, devices, found.chip, say)
        seconds = [plan.seconds()[0] for plan in (found, theirs)]
        how = "ESTIMATED from data sheets"
    runs = map(comparison.Run, names, (found.config, other), seconds)
    return *runs, how


def _printed(table: str) -> str:
    """Prints a table without its last line, and returns that line."""
    *lines, last = table.splitlines()
    print("\n".join(lines))
    return last


if __name__ == "__main__":
    command_line.run(job, needed=("config",))
