"""EchoJEPA-L with V-JEPA 2.1 (echo recipe): ViT-L, 224 px, 16 frames at 8 fps.

Command:   python -m echojepa_jax.main --config=configs/vit_l_v21.py --workdir=runs/vit_l_v21 \
             --config.init.from=vjepa2_1_vitl_dist_vitG_384.pt \
             --config.data.sources="('dicom:/data/mimic-iv-echo/files',)"
Weights:   a file by Meta, from which the public EchoJEPA models started as well. Without
           --config.init.from, the run starts from random weights.
Hardware:  as configs/vit_l.py.
Duration:  36,000 updates of 1,024 clips, half of configs/vit_l.py. No such run has been made here.
Expect:    two losses, of masked and of visible tokens. Clips are not flipped: the original flips
           them by mistake, but left and right matter in anatomy.
"""

from ml_collections import ConfigDict

from configs import vit_l


def get_config() -> ConfigDict:
    config = vit_l.get_config()
    config.model.family = "v2.1"
    # Only the last layer is predicted, as in the distilled models that the recipe starts from.
    config.objective.update(levels=1, context_weight=0.5)
    config.predictor.mask_tokens = 8  # as in the public files
    config.optim.epochs = 120
    return config
