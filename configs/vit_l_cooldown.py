"""EchoJEPA-L cooldown: the learning rate of a pretraining run falls linearly to 1e-6.

Command:   python -m echojepa_jax.main --config=configs/vit_l_cooldown.py \
             --workdir=runs/vit_l_cooldown --config.init.from=runs/vit_l --config.init.step=63000 \
             --config.data.sources="('dicom:/data/mimic-iv-echo/files',)"
Hardware:  as configs/vit_l.py.
Duration:  24,000 updates of 1,024 clips, a third of the pretraining run.
Expect:    the loss falls again; probes of the target encoder improve. Encoder, target encoder and
           predictor come from the other run; step, optimizer and schedules start from 0.
"""

from ml_collections import ConfigDict

from configs import vit_l


def get_config() -> ConfigDict:
    config = vit_l.get_config()
    config.init = {"from": "runs/vit_l", "step": 63_000}
    config.optim.update(
        epochs=80,
        ipe_scale=1.0,
        schedule="linear",
        warmup_epochs=0.0,
        start_lr=1.75e-4,
        peak_lr=1.75e-4,
        final_lr=1e-6,
    )
    return config
