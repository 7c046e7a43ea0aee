"""EchoJEPA-B with V-JEPA 2.1 (echo recipe): ViT-B, 224 px, 16 frames at 8 fps.

Command:   python -m echojepa_jax.main --config=configs/vit_b_v21.py --workdir=runs/vit_b_v21 \
             --config.init.from=vjepa2_1_vitb_dist_vitG_384.pt \
             --config.data.sources="('dicom:/data/mimic-iv-echo/files',)"
Hardware:  the original took 3.4 s per update on 8 A100.
Duration:  72,000 updates of 1,024 clips. No such run has been made here.
Expect:    the original's loss: 0.66 at the start, 0.47 after 65 updates, later about 0.62. A sudden
           fall to 0.45 was a partial collapse; its authors continued from an earlier checkpoint
           with another seed.
"""

from ml_collections import ConfigDict

from configs import vit_l_v21


def get_config() -> ConfigDict:
    config = vit_l_v21.get_config()
    config.model.size = "vit_base"
    config.optim.epochs = 240
    return config
