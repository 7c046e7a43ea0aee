"""Fields that make shipped configs small enough for a test."""

PHANTOM = "phantom:adult,patients=10,views=2,seed=1"
SHRINK = {
    "model.width": 24,
    "model.depth": 2,
    "model.mlp_hidden": 48,
    "predictor.width": 24,
    "predictor.depth": 1,
    "predictor.mlp_hidden": 48,
    "data.sources": (PHANTOM,),
    "data.frames": 4,
    "data.size": 32,
    "masks.large.context_tokens": 2,
    "masks.large.target_tokens": 12,
    "masks.small.context_tokens": 4,
    "masks.small.target_tokens": 6,
    "optim.global_batch": 8,
    "optim.updates_per_epoch": 3,
    "optim.epochs": 2,
    "checkpoint.every": 3,
    "log.every": 1,
    "log.health_every": 2,
    "log.tensorboard": False,
    "probe.source": "",
    "probe.batch": 8,
}
