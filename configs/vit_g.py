"""EchoJEPA-G pretraining: ViT-g, 336 px, 16 frames at 24 fps.

Command:   python -m echojepa_jax.main --config=configs/vit_g.py --workdir=runs/vit_g \
             --config.data.sources="('videos:/data/clips',)"
Hardware:  a pod: 1.01 B parameters, 3,528 tokens per clip.
Duration:  120,000 updates of 640 clips. The paper's data (18.1 M clips) are private; no such run
           has been made here. (The paper trains at 224 px first, the released recipe at 336 px.)
Expect:    as configs/vit_l.py.
"""

from ml_collections import ConfigDict

from configs import vit_l


def get_config() -> ConfigDict:
    config = vit_l.get_config()
    config.model.size = "vit_giant"
    config.data.update(size=336, sample_value=24.0, expect_stills=False, padded="kept")
    # Of 441 tokens per frame. Mean numbers that the original keeps with 128 clips per device.
    config.masks.large.update(context_tokens=21 * 8, target_tokens=308 * 8)
    config.masks.small.update(context_tokens=92 * 8, target_tokens=187 * 8)
    config.checkpoint.keep_every = 12_000  # the cooldown starts from step 84,000
    config.optim.update(
        global_batch=640,
        epochs=400,
        ipe_scale=1.0,
        warmup_epochs=5.0,
        start_lr=2.08e-5,
        peak_lr=1.094e-4,
        final_lr=1.094e-4,
    )
    return config
