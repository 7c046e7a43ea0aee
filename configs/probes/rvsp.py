"""Right ventricular systolic pressure from several views of a study (paper: early fusion).

Command:   python -m echojepa_jax.probe --config=configs/probes/rvsp.py --workdir=runs/rvsp \
             --config.weights=out/encoder --config.data.sources="('csv:/data/rvsp.csv',)"
Hardware:  as configs/probes/lvef.py; the tokens of two views are twice as many.
           The table has the columns path, patient, study, view, split and rvsp.
Duration:  not measured yet.
Expect:    the paper's EchoJEPA-L has an MAE of 5.01 and 5.05 mmHg on its two test sites. It is
           2.0 % higher without embeddings of view and clip (head.streams), 12.1 % higher with late
           fusion (head.fusion), and 18.3 % higher without view dropout (head.view_dropout).
"""

from ml_collections import ConfigDict

from configs.probes import lvef


def get_config() -> ConfigDict:
    config = lvef.get_config()
    config.task.update(target="rvsp", views=("A4C", "PSAX-AV"))
    config.head.update(streams=True, view_dropout=0.1)
    config.optim.update(batch=32, microbatches=16)
    return config
