"""Shapes of the arrays in sharded programs."""


def sizes_of(shape):
    """The sizes in a text: "bf16[8,64]" -> [8, 64]."""
    return [int(n) for n in shape.partition("[")[2].rstrip("]").split(",") if n]


def both_shapes(leaf):
    return leaf.shape, leaf.sharding.shard_shape(leaf.shape)
