"""V-JEPA 2.1 with four levels on videos and still images: configs/vit_l_v21_full.py, and images.

Command:   python -m echojepa_jax.main --config=configs/vit_l_v21_images.py \
             --workdir=runs/vit_l_v21_images \
             --config.data.sources="('dicom:/data/mimic-iv-echo/files',)" \
             --config.images.sources="('dicom:/data/mimic-iv-echo/files',)"
Data:      both sources may be the same folder: its videos are the videos, its stills the images.
Hardware:  as configs/vit_l_v21_full.py; 1,536 images have as many tokens as 192 clips.
Duration:  36,000 updates of 1,024 clips and 1,536 images. No such run has been made here.
Expect:    one more loss, of the images. As in V-JEPA 2.1, an update has 1.5 images for each clip,
           and half of its gradient comes from the images.
"""

from ml_collections import ConfigDict

from configs import vit_l_v21_full


def get_config() -> ConfigDict:
    config = vit_l_v21_full.get_config()
    config.images = dict(
        sources=(),  # name yours on the command line
        global_batch=1536,
        share=0.5,
        size=config.data.size,
        crop_area=config.data.crop_area,
        crop_aspect=config.data.crop_aspect,
        context_weight=0.5,
        # Of 196 tokens. Mean numbers that the original keeps with 72 images per device. It keeps
        # the first tokens and so never predicts the last rows of an image: we keep random ones.
        mask=dict(
            blocks=10,
            scale=0.15,
            aspect=(0.75, 1.5),
            context_tokens=29,
            target_tokens=98,
            keep="random",
        ),
    )
    return config
