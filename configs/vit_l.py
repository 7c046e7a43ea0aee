"""EchoJEPA-L pretraining: ViT-L, 224 px, 16 frames at 8 fps (paper, section 6 of the recipe).

Command:   python -m echojepa_jax.main --config=configs/vit_l.py --workdir=runs/vit_l \
             --config.data.sources="('dicom:/data/mimic-iv-echo/files',)"
Hardware:  the paper's run took 8 A100-80GB; the batch is split over any number of devices.
Duration:  72,000 updates of 1,024 clips, at about 2.3 TFLOP per clip: 1.7e20 FLOP. Eight H100 at
           the goal of 185 clips/s each would need 14 hours; no such run has been made yet.
Expect:    a loss that falls, then *rises* slowly while features improve; see the health measures.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0

    config.model = dict(
        family="v2",
        size="vit_large",
        width=0,
        depth=0,
        heads=0,
        mlp_hidden=0,
        tubelet=2,
        patch=16,
        scan_layers=True,
        remat="attention",
        attention="auto",
        dtype="bfloat16",
    )
    config.mesh = dict(replica=1, fsdp=-1)
    config.predictor = dict(width=384, depth=12, heads=12, mlp_hidden=1536, mask_tokens=10)

    config.data = dict(
        sources=(),  # name yours on the command line
        weights=(),
        temperature=1.0,
        split="",
        frames=16,
        size=224,
        sample_by="fps",
        sample_value=8.0,
        crop_area=(0.5, 1.0),
        crop_aspect=(0.9, 1.1),
        mean=(0.485, 0.456, 0.406),  # those of ImageNet, which the weights of V-JEPA 2 need
        std=(0.229, 0.224, 0.225),
        workers=16,
        max_bad_share=0.01,
        max_padded_share=0.1,
        padded="masked",  # at 8 fps, about 7 % of MIMIC-IV-Echo's videos are shorter than a clip
        expect_stills=True,  # about 42 % of MIMIC-IV-Echo's files
    )
    # Numbers of tokens near the means that the original keeps with 128 clips per device.
    config.masks = dict(
        large=dict(
            blocks=2,
            scale=0.7,
            aspect=(0.75, 1.5),
            context_tokens=10 * 8,
            target_tokens=137 * 8,
            keep="raster",
        ),
        small=dict(
            blocks=8,
            scale=0.15,
            aspect=(0.75, 1.5),
            context_tokens=37 * 8,
            target_tokens=84 * 8,
            keep="raster",
        ),
    )

    # V-JEPA 2 predicts only masked tokens of the last layer.
    config.objective = dict(levels=1, context_weight=0.0, context_ramp=(0, 0), by_distance=False)
    config.optim = dict(
        global_batch=1024,
        microbatches=1,
        updates_per_epoch=300,
        epochs=240,
        ipe_scale=1.25,
        schedule="warmup_cosine",
        warmup_epochs=40.0,
        start_lr=3.33e-5,
        peak_lr=1.75e-4,
        final_lr=1.75e-4,
        weight_decay=0.04,
        final_weight_decay=0.04,
        momentum=(0.99925, 0.99925),
        betas=(0.9, 0.999),
        eps=1e-8,
        clip_norm=0.0,
        loss_exponent=1.0,
        max_skipped=10,
    )
    config.init = {"from": "", "step": -1}

    config.checkpoint = dict(every=1000, keep_latest=2, keep_every=9000)
    config.log = dict(every=10, health_every=300, tensorboard=True)
    config.probe = dict(
        source="",  # a labelled source, such as 'echonet_dynamic:/data/EchoNet-Dynamic'
        train_split="train",
        test_split="val",
        targets=("ef",),
        view=False,
        clips=2,
        batch=64,
        every=3000,
    )
    return config
