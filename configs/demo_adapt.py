"""Trains the demo's model further on other data: on simulated children (docs/own_model.md).

Command:   python -m echojepa_jax.main --config=configs/demo_adapt.py --workdir=runs/demo_adapt
Weights:   a run of configs/demo.py; --config.init.from names another run or file of weights.
Hardware:  two CPU cores.
Duration:  about 2 minutes, including the creation of the data set.
"""

from ml_collections import ConfigDict

from configs import demo


def get_config() -> ConfigDict:
    config = demo.get_config()
    children = "phantom:pediatric,patients=200,views=2,seed=0"
    config.init = {"from": "runs/demo", "step": -1}
    config.data.sources = (children,)
    config.probe.source = children
    # Like a cooldown: no warm-up, and the learning rate falls from the first step on.
    config.optim.update(
        epochs=6,
        schedule="linear",
        warmup_epochs=0.0,
        start_lr=5e-4,
        peak_lr=5e-4,
        final_lr=0.0,
        momentum=(0.99, 0.995),
    )
    return config
