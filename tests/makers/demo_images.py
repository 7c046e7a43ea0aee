"""The demo with V-JEPA 2.1 on videos and still images, for use with `SHRINK`."""

from ml_collections import ConfigDict

from configs import demo_v21, vit_l_v21_images
from tests.makers.configs import PHANTOM


def get_config() -> ConfigDict:
    config = demo_v21.get_config()
    config.images = vit_l_v21_images.get_config().images
    config.images.update(sources=(f"{PHANTOM},stills=1",), global_batch=16, size=48)
    config.images.mask.update(context_tokens=6, target_tokens=12)
    return config
