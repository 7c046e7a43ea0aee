"""EchoMAE-L, the paper's baseline, with a fair recipe: VideoMAE on ViT-L, as many FLOPs as vit_l.

Command:   python -m echojepa_jax.main --config=configs/mae_l.py --workdir=runs/mae_l \
             --config.data.sources="('dicom:/data/mimic-iv-echo/files',)"
Data:      videos, clips and crops are those of configs/vit_l.py.
Weights:   random, as there. To start from natural videos instead, set --config.init.from to the
           weights of a VideoMAE-L.
Hardware:  as configs/vit_l.py.
Duration:  343,500 updates of 1,024 clips. They cost as much as the 72,000 updates of
           configs/vit_l.py: see echojepa plan --config=mae_l --gpus=8 --compare=vit_l. For the same
           number of updates, set optim.epochs=240 and optim.warmup_epochs=12.0. No such run has
           been made here.
Expect:    a loss between 0 and `loss_of_zero`, which is the loss if all predictions are 0. Also try
           0.3 and 3 times this peak_lr. For a cooldown, continue with optim.schedule=linear and
           init.from=runs/mae_l, as configs/vit_l_cooldown.py does.
"""

from ml_collections import ConfigDict

from configs import vit_l


def get_config() -> ConfigDict:
    config = vit_l.get_config()
    # These are only for V-JEPA, where `objective` is a section.
    del config.masks, config.objective, config.optim.momentum, config.optim.loss_exponent
    config.objective = "mae"
    config.model.family = "videomae"
    # The decoder.
    config.predictor.update(width=512, depth=4, heads=8, mlp_hidden=2048, mask_tokens=1)
    config.mae = dict(mask="tube", mask_ratio=0.9, norm_pix=True)

    # As in VideoMAE: rates of 1.5e-4 and 1e-5 per 256 clips, and 1/20 of the run as warm-up.
    config.optim.update(
        epochs=1145,
        ipe_scale=1.0,
        schedule="warmup_cosine_from_0",
        warmup_epochs=57.25,
        start_lr=4e-6,
        peak_lr=6e-4,
        final_lr=4e-5,
        weight_decay=0.05,
        final_weight_decay=0.05,
        betas=(0.9, 0.95),
    )
    return config
