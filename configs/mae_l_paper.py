"""EchoMAE-L as its authors ran it: random masks, and 1/170 of VideoMAE's learning rate.

Command:   python -m echojepa_jax.main --config=configs/mae_l_paper.py --workdir=runs/mae_l_paper \
             --config.data.sources="('dicom:/data/mimic-iv-echo/files',)" \
             --config.init.from=videomae_vitl
Weights:   the authors started from a ViT-L trained on natural videos; replace "videomae_vitl" by
           the weights of a VideoMAE-L. For a stronger baseline, see configs/mae_l.py.
Hardware:  as configs/vit_l.py; the authors' run took 8 H100.
Duration:  84,132 updates of 1,024 clips, 0.25 of the FLOPs of configs/vit_l.py.
Expect:    the authors' loss fell from 0.87 to 0.27. Two things differ here: they resumed once with
           half the rate, and they computed in float16 with a scaled loss.
"""

from ml_collections import ConfigDict

from configs import mae_l


def get_config() -> ConfigDict:
    config = mae_l.get_config()
    # The paper describes tubes, but the authors' loader masks tokens anywhere in space and time.
    config.mae.mask = "random"
    # 16 frames, evenly spaced over the whole video.
    config.data.update(sample_by="share", sample_value=1.0, max_padded_share=1.0)
    # 8.789e-7 per 256 clips. The warm-up starts above the peak, and the cosine rises after it.
    config.optim.update(
        updates_per_epoch=513,
        epochs=164,
        warmup_epochs=24.0,
        start_lr=4e-6,
        peak_lr=3.516e-6,
        final_lr=4e-6,
        weight_decay=0.04,
        final_weight_decay=0.04,
        eps=1e-6,
        clip_norm=0.5,
    )
    return config
