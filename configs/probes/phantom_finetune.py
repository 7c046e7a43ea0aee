"""Ejection fraction of simulated hearts by fine-tuning the demo's encoder.

Command:   python -m echojepa_jax.probe --config=configs/probes/phantom_finetune.py \
             --config.weights=runs/demo --workdir=runs/finetune
Hardware:  two CPU cores.
Duration:  about 5 minutes.
Expect:    an error of about 9.4 points, which is worse than the frozen probe: see docs/probes.md.
"""

from ml_collections import ConfigDict

from configs.probes import lvef_finetune, phantom_lvef


def get_config() -> ConfigDict:
    config = phantom_lvef.get_config()
    config.encoder.update(lvef_finetune.get_config().encoder)
    config.encoder.update(dtype="float32", remat="none", lr_scale=0.3)
    config.data.update(augment="crops")
    config.optim.update(learning_rates=(1e-3,), weight_decays=(0.05,), epochs=10, batch=16)
    return config
