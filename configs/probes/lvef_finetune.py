"""Ejection fraction by fine-tuning the encoder together with the head.

Command:   python -m echojepa_jax.probe --config=configs/probes/lvef_finetune.py \
             --workdir=runs/lvef_finetune --config.weights=out/encoder \
             --config.data.sources="('echonet_dynamic:/data/EchoNet-Dynamic',)"
Hardware:  one GPU or a Colab TPU (launch/finetune_colab.ipynb); ViT-L with its blocks recomputed.
Duration:  not measured yet.
Expect:    better than the frozen probe if there are thousands of labels. The encoder is kept in the
           workdir: `export --workdir` and `convert --from` read it.
"""

from ml_collections import ConfigDict

from configs.probes import lvef


def get_config() -> ConfigDict:
    config = lvef.get_config()
    config.encoder.update(
        trainable=True, lr_scale=0.1, layer_decay=0.75, drop_path=0.1, remat="attention"
    )
    config.data.update(augment="crops", clips=1)
    config.head.depth = 1
    config.optim.update(learning_rates=(1e-3,), weight_decays=(0.05,), epochs=20, batch=32)
    config.optim.microbatches = 1
    return config
