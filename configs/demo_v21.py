"""The demo with V-JEPA 2.1: the same data, sizes and budget as configs/demo.py.

Command:   python -m echojepa_jax.main --config=configs/demo_v21.py --workdir=runs/demo_v21
Hardware:  two CPU cores.
Duration:  about 5 minutes, as configs/demo.py.
Expect:    view accuracy rises from 0.79 (random weights) to 0.96, and the error of the ejection
           fraction falls from 8.6 to 7.2 points. docs/results compares three seeds of both.
"""

from ml_collections import ConfigDict

from configs import demo


def get_config() -> ConfigDict:
    config = demo.get_config()
    config.model.family = "v2.1"
    # As in the echo recipes: visible tokens have half weight from the first step on.
    config.objective.context_weight = 0.5
    return config
