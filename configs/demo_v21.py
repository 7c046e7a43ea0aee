"""The demo with V-JEPA 2.1: the same data, sizes and budget as configs/demo.py.

Command:   python -m echojepa_jax.main --config=configs/demo_v21.py --workdir=runs/demo_v21
Hardware:  two CPU cores.
"""

from ml_collections import ConfigDict

from configs import demo


def get_config() -> ConfigDict:
    config = demo.get_config()
    config.model.family = "v2.1"
    # As in the echo recipes: visible tokens have half weight from the first step on.
    config.objective.context_weight = 0.5
    return config
