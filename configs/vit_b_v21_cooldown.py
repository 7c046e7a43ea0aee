"""EchoJEPA-B with V-JEPA 2.1, cooldown: 32 frames at 24 fps, learning rate to 1e-6.

Command:   python -m echojepa_jax.main --config=configs/vit_b_v21_cooldown.py \
             --workdir=runs/vit_b_v21_cooldown --config.init.from=runs/vit_b_v21 \
             --config.data.sources="('dicom:/data/mimic-iv-echo/files',)"
Hardware:  as configs/vit_b_v21.py.
Duration:  9,000 updates of 512 clips of twice the length.
Expect:    as configs/vit_l_cooldown.py.
"""

from ml_collections import ConfigDict

from configs import vit_b_v21, vit_l_v21_cooldown


def get_config() -> ConfigDict:
    return vit_l_v21_cooldown.cooldown_of(vit_b_v21.get_config(), run="runs/vit_b_v21")
