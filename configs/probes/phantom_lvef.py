"""Ejection fraction of simulated hearts, from the encoder of the demo.

Command:   python -m echojepa_jax.probe --config=configs/probes/phantom_lvef.py \
             --config.weights=runs/demo --workdir=runs/lvef
Hardware:  two CPU cores.
Duration:  about 2 minutes.
Expect:    an error of about 7.7 points; 10.8 with random weights (export --part=initial).
"""

from ml_collections import ConfigDict

from configs.probes import lvef


def get_config() -> ConfigDict:
    config = lvef.get_config()
    config.encoder.dtype = "float32"
    config.data.update(
        sources=("phantom:adult,patients=500,views=2,seed=0",),
        frames=0,
        size=0,
        sample_by="",
        sample_value=0.0,
        clips=1,  # the phantom's videos are one clip long
        cache_gb=4.0,
        workers=0,
    )
    config.head.update(tokens="motion", depth=1, heads=4, hidden=128)
    config.optim.update(
        learning_rates=(3e-3, 1e-3), weight_decays=(0.1, 0.4), epochs=60, batch=32, microbatches=1
    )
    config.eval.update(by_study=True)
    config.log.tensorboard = False
    return config
