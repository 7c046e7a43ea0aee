"""EchoJEPA-G cooldown: the learning rate of a pretraining run falls linearly to 1.04e-7.

Command:   python -m echojepa_jax.main --config=configs/vit_g_cooldown.py \
             --workdir=runs/vit_g_cooldown --config.init.from=runs/vit_g \
             --config.data.sources="('videos:/data/clips',)"
Hardware:  as configs/vit_g.py.
Duration:  60,000 updates of 640 clips. The paper starts it at epoch 280, step 84,000.
Expect:    as configs/vit_l_cooldown.py.
"""

from ml_collections import ConfigDict

from configs import vit_g


def get_config() -> ConfigDict:
    config = vit_g.get_config()
    config.init = {"from": "runs/vit_g", "step": 84_000}
    config.optim.update(
        epochs=200,
        schedule="linear",
        warmup_epochs=0.0,
        start_lr=5.47e-5,
        peak_lr=5.47e-5,
        final_lr=1.04e-7,
    )
    return config
