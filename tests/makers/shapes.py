"""Shapes of arrays of sharded programs."""


def sizes_of(shape):
    """[8, 64] of "bf16[8,64]"."""
    return [int(n) for n in shape.partition("[")[2].rstrip("]").split(",") if n]


def both_shapes(leaf):
    return leaf.shape, leaf.sharding.shard_shape(leaf.shape)
