"""Ejection fraction of simulated hearts from all views of a study together; views may be missing.

Command:   python -m echojepa_jax.probe --config=configs/probes/phantom_multiview.py \
             --config.weights=runs/demo --workdir=runs/multiview
Hardware:  two CPU cores.
Duration:  about 2 minutes.
Expect:    an error of about 5.1 points; 7.2 with random weights (export --part=initial). Every
           study has two of the four views, so two slots are always missing.
"""

from ml_collections import ConfigDict

from configs.probes import phantom_lvef


def get_config() -> ConfigDict:
    config = phantom_lvef.get_config()
    config.task.views = ("A2C", "A4C", "PLAX", "PSAX")
    config.head.update(streams=True, view_dropout=0.1)
    config.eval.by_study = False
    return config
