"""The view of simulated hearts by a linear probe, from the encoder of the demo.

Command:   python -m echojepa_jax.probe --config=configs/probes/phantom_view.py \
             --config.weights=runs/demo --workdir=runs/view
Hardware:  two CPU cores.
Duration:  less than a minute.
Expect:    an accuracy of about 0.76; 0.52 with random weights (export --part=initial).
"""

from ml_collections import ConfigDict

from configs.probes import phantom_lvef


def get_config() -> ConfigDict:
    config = phantom_lvef.get_config()
    config.task.update(kind="classification", target="view")
    config.head.update(kind="linear", tokens="mean")
    config.optim.update(learning_rates=(1e-1, 1e-2), weight_decays=(0.01, 0.1), epochs=40)
    config.eval.by_study = False
    return config
