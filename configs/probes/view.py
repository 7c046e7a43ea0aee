"""The view of a video, with a share of the labels (paper: attentive probe, frozen encoder).

Command:   python -m echojepa_jax.probe --config=configs/probes/view.py --workdir=runs/view \
             --config.weights=out/encoder --config.data.sources="('csv:/data/views.csv',)" \
             --config.data.train_share=0.1
Hardware:  as configs/probes/lvef.py. The table has the columns path, patient, view and split.
Duration:  not measured yet.
Expect:    the paper's EchoJEPA-L reaches 57.6, 80.1 and 85.5 % with 1, 10 and 100 % of the labels.
"""

from ml_collections import ConfigDict

from configs.probes import lvef


def get_config() -> ConfigDict:
    config = lvef.get_config()
    config.task.update(kind="classification", target="view")
    return config
