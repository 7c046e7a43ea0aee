"""Ejection fraction from single videos of EchoNet-Dynamic (paper: attentive probe, frozen encoder).

Command:   python -m echojepa_jax.probe --config=configs/probes/lvef.py --workdir=runs/lvef \
             --config.weights=out/encoder \
             --config.data.sources="('echonet_dynamic:/data/EchoNet-Dynamic',)"
Hardware:  one GPU. All tokens of 8,750 videos at 2 clips each are 112 GB for ViT-L: with that much
           memory (data.cache_gb) the encoder runs once, otherwise once per epoch.
Duration:  not measured yet.
Expect:    the paper's EchoJEPA-L has an MAE of 5.76 points.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.weights = ""  # name yours on the command line

    config.encoder = dict(
        trainable=False,
        lr_scale=1.0,
        layer_decay=1.0,
        drop_path=0.0,
        dtype="bfloat16",
        remat="none",
    )
    config.data = dict(
        sources=(),
        train_split="train",
        val_split="val",
        test_split="test",
        train_share=1.0,
        skip_unlabelled=False,
        frames=16,
        size=224,
        sample_by="stride",
        sample_value=2.0,
        clips=2,
        place="spread",
        augment="none",
        crop_area=(0.5, 1.0),
        crop_aspect=(0.9, 1.1),
        cache_gb=64.0,
        workers=8,
        max_bad_share=0.01,
        expect_stills=False,
    )
    config.task = dict(kind="regression", target="ef", views=())
    config.head = dict(
        kind="attentive",
        tokens="all",
        depth=4,
        heads=16,
        hidden=1024,
        streams=False,
        fusion="early",
        view_dropout=0.0,
    )
    config.optim = dict(
        learning_rates=(1e-4, 5e-5),
        weight_decays=(0.01, 0.1, 0.4),
        epochs=20,
        batch=64,
        microbatches=16,
        class_weights=False,
        focal_gamma=0.0,
    )
    config.eval = dict(by_study=False, bootstrap=1000)
    config.log = dict(tensorboard=True)
    return config
