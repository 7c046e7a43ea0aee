"""Ejection fraction with the paper's protocol. docs/probes.md lists what differs from `lvef`.

Command:   python -m echojepa_jax.probe --config=configs/probes/lvef_paper.py \
             --workdir=runs/lvef_paper --config.weights=out/encoder \
             --config.data.sources="('echonet_dynamic:/data/EchoNet-Dynamic',)"
Hardware:  one GPU. The encoder runs in every epoch, because every epoch has new clips.
Duration:  not measured yet.
Expect:    the paper's EchoJEPA-L has an MAE of 5.76 points.
"""

from ml_collections import ConfigDict

from configs.probes import lvef


def get_config() -> ConfigDict:
    config = lvef.get_config()
    # The paper's clips have 112 px on EchoNet-Dynamic, and 224 px on the hospitals' videos.
    config.data.update(augment="original", size=112)
    config.optim.update(batch=8, microbatches=2)
    return config
