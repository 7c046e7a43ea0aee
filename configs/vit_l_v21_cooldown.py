"""EchoJEPA-L with V-JEPA 2.1, cooldown: 32 frames at 24 fps, learning rate to 1e-6.

Command:   python -m echojepa_jax.main --config=configs/vit_l_v21_cooldown.py \
             --workdir=runs/vit_l_v21_cooldown --config.init.from=runs/vit_l_v21 \
             --config.data.sources="('dicom:/data/mimic-iv-echo/files',)"
Hardware:  as configs/vit_l.py.
Duration:  9,000 updates of 512 clips of twice the length.
Expect:    as configs/vit_l_cooldown.py.
"""

from ml_collections import ConfigDict

from configs import vit_l_v21


def get_config() -> ConfigDict:
    return cooldown_of(vit_l_v21.get_config(), run="runs/vit_l_v21")


def cooldown_of(config: ConfigDict, run: str) -> ConfigDict:
    """The cooldown of a pretraining config, from the last checkpoint of its run."""
    config.init = {"from": run, "step": config.optim.epochs * config.optim.updates_per_epoch}
    config.data.update(frames=32, sample_value=24.0)
    # A mask is the same in all frames, so twice the frames give twice the tokens.
    for mask in config.masks.values():
        mask.context_tokens *= 2
        mask.target_tokens *= 2
    config.optim.update(
        global_batch=512,
        epochs=30,
        ipe_scale=1.0,
        schedule="linear",
        warmup_epochs=0.0,
        start_lr=1.75e-4,
        peak_lr=1.75e-4,
        final_lr=1e-6,
    )
    return config
