"""The demo with VideoMAE (EchoMAE, the paper's baseline): same data, encoder size and FLOPs.

Command:   python -m echojepa_jax.main --config=configs/demo_mae.py --workdir=runs/demo_mae
Hardware:  two CPU cores.
Duration:  8 minutes.
Expect:    a loss that falls from 0.99 to 0.86. On unseen patients, the error of the ejection
           fraction falls from 9.2 (random weights) to 7.7 points, and view accuracy rises from
           0.965 to 0.975. Other seeds differ: see docs/results/README.md.
"""

from ml_collections import ConfigDict

from configs import demo


def get_config() -> ConfigDict:
    config = demo.get_config()
    # These are only for V-JEPA, where `objective` is a section.
    del config.masks, config.objective, config.optim.momentum, config.optim.loss_exponent
    config.objective = "mae"
    config.model.family = "videomae"
    # The decoder: half as wide as the encoder, as in EchoMAE-L.
    config.predictor.update(width=32, depth=1, heads=1, mlp_hidden=128, mask_tokens=1)
    config.mae = dict(mask="tube", mask_ratio=0.9, norm_pix=True)
    # As many FLOPs as the 1,200 updates of the demo. Of the rates 5e-4, 1.5e-3 and 5e-3, this
    # one has the smallest error of the ejection fraction on the validation patients.
    config.optim.update(epochs=73, peak_lr=5e-4, final_weight_decay=0.05, weight_decay=0.05)
    return config
