"""The demo for a laptop: simulated hearts, a tiny encoder, and an online probe at the end.

Command:   python -m echojepa_jax.main --config=configs/demo.py --workdir=runs/demo
Hardware:  two CPU cores.
Duration:  5 to 7 minutes, including the creation of the data set.
Expect:    on unseen patients, view accuracy rises from 0.78 (random weights) to 0.97, and the error
           of the ejection fraction falls from 8.6 to 6.5 points. Other seeds differ: see
           docs/getting_started.md.
"""

from ml_collections import ConfigDict

from configs import vit_l


def get_config() -> ConfigDict:
    config = vit_l.get_config()
    config.model.update(
        size="vit_tiny",
        width=64,
        depth=3,
        heads=2,
        mlp_hidden=256,
        patch=8,
        remat="none",
        scan_layers=False,
        dtype="float32",
    )
    config.mesh.update(replica=-1, fsdp=1)
    config.predictor.update(width=48, depth=2, heads=2, mlp_hidden=192)

    phantom = "phantom:adult,patients=500,views=2,seed=0"
    config.data.update(
        sources=(phantom,),
        split="train",
        frames=16,
        size=64,
        sample_by="duration",
        sample_value=1.2,  # seconds: a whole beat of any adult phantom
        max_padded_share=1.0,  # for a first try with your own videos, accept any length
        padded="kept",
        # Those of the phantom: most of its pixels are black, far from ImageNet's mean.
        mean=(0.13, 0.13, 0.13),
        std=(0.2, 0.2, 0.2),
        workers=0,
        expect_stills=False,
    )
    # Of 512 tokens. Targets cost the most, and a few of them are enough to learn from.
    config.masks.large.update(context_tokens=32, target_tokens=80, keep="random")
    config.masks.small.update(context_tokens=112, target_tokens=80, keep="random")

    config.optim.update(
        global_batch=16,
        updates_per_epoch=50,
        epochs=24,
        ipe_scale=1.0,
        warmup_epochs=1.0,
        start_lr=1e-4,
        peak_lr=1.5e-3,
        final_lr=0.0,
        momentum=(0.98, 0.995),
        betas=(0.9, 0.95),
    )
    config.checkpoint.update(every=300, keep_latest=2, keep_every=0)
    config.log.update(every=20, health_every=200)
    config.probe.update(
        source=phantom,
        train_split="train",
        test_split="test",
        targets=("ef",),
        view=True,
        clips=1,
        batch=32,
        every=0,
    )
    return config
