"""Plan a training run before anyone pays for the machine: does it fit, and how long will it take?

  pip install libtpu
  python -m echojepa_jax.plan --config=configs/vit_l.py --topology=v5e:8x8
  python -m echojepa_jax.plan --config=configs/vit_g.py --topology=v5p:4x4x4 --sweep
  pip install jax-cuda13-plugin nvidia-cuda-nvcc
  python -m echojepa_jax.plan --config=configs/vit_l.py --gpus=8 --gpu=h100

The training step is compiled as it would be there, on any machine: memory and collectives are the
compiler's. Where the compiler for GPUs is not installed, their collectives are those of as many
simulated devices, and memory is an estimate. Times are estimates from data sheets.
"""

import sys

from absl import flags
from ml_collections import config_flags

from echojepa_jax import command_line

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "what to train: a file of configs/", sys_argv=command_line.speakable(sys.argv)
)
TOPOLOGY = flags.DEFINE_string("topology", "", "a TPU slice: v4:2x2x4, v5e:8x8, v5p:4x4x4, v6e:4x4")
GPUS = flags.DEFINE_integer("gpus", 0, "a number of GPUs, instead of a topology")
GPU = flags.DEFINE_enum("gpu", "h100", ["a100", "h100", "h200"], "which GPU")
SWEEP = flags.DEFINE_bool("sweep", False, "find the largest global batch that fits")
VIDEOS = flags.DEFINE_integer("videos", 0, "of your data set, to count passes over it")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def job() -> str:
    from echojepa_jax.costs import ahead
    from echojepa_jax.utils.errors import UserError

    if bool(TOPOLOGY.value) == bool(GPUS.value):
        raise UserError("give either --topology or --gpus; see --help")
    if TOPOLOGY.value and flags.FLAGS["gpu"].present:
        raise UserError("--gpu is for --gpus, and --topology names a TPU slice")
    ahead.prepare_environment(simulated=GPUS.value)

    import jax

    from echojepa_jax.costs import gpu
    from echojepa_jax.costs import plan as plans
    from echojepa_jax.costs.chips import GPUS as GPU_CHIPS
    from echojepa_jax.costs.chips import TPUS
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
    if not config.data.sources:
        config.data.sources = ("videos:.",)  # a plan needs no data
    configs.check(config, len(devices))
    make = plans.largest_batch if SWEEP.value else plans.make_plan
    found = make(config, devices, chip, say)
    if found is None:
        return "does not fit: not even one clip a chip; try more chips, or a smaller model"
    *lines, last = plans.table(found, VIDEOS.value).splitlines()
    print("\n".join(lines))
    if SWEEP.value:
        return (
            f"{last}; {found.config.optim.global_batch} is the largest global batch found to do so"
        )
    return last


if __name__ == "__main__":
    command_line.run(job, needed=("config",))
