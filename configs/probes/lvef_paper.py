"""Ejection fraction by the paper's protocol, which differs from `lvef` (see docs/probes.md).

Command:   python -m echojepa_jax.probe --config=configs/probes/lvef_paper.py \
             --workdir=runs/lvef_paper --config.weights=out/encoder \
             --config.data.sources="('echonet_dynamic:/data/EchoNet-Dynamic',)"
Hardware:  one GPU. The encoder runs in every epoch, because the clips are always new.
Duration:  not measured yet.
Expect:    the paper's EchoJEPA-L has an MAE of 5.76 points.
"""

from ml_collections import ConfigDict

from configs.probes import lvef


def get_config() -> ConfigDict:
    config = lvef.get_config()
    # On EchoNet-Dynamic. On the videos of the hospitals, clips had 224 pixels.
    config.data.update(augment="original", size=112)
    config.optim.update(batch=8, microbatches=2)
    return config
