"""V-JEPA 2.1 with four levels: its full recipe for videos, with the data and batch of vit_l_v21.py.

Command:   python -m echojepa_jax.main --config=configs/vit_l_v21_full.py \
             --workdir=runs/vit_l_v21_full --config.data.sources="('videos:/data/clips',)"
Hardware:  as configs/vit_l.py; the predictor is twice as deep.
Duration:  36,000 updates of 1,024 clips. No such run has been made here.
Expect:    the weight of the loss of visible tokens grows from 0 between steps 15,000 and 30,000.
"""

from ml_collections import ConfigDict

from configs import vit_l_v21


def get_config() -> ConfigDict:
    config = vit_l_v21.get_config()
    config.objective.update(
        levels=4, context_weight=0.5, context_ramp=(15_000, 30_000), by_distance=True
    )
    config.predictor.depth = 24
    return config
