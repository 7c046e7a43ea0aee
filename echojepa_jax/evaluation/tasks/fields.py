"""Fields that several kinds of tasks have."""

from echojepa_jax.evaluation.fit import head_choice
from echojepa_jax.utils.config_fields import TEXTS, Field, Rule
from echojepa_jax.utils.errors import UserError


def is_head(name: str) -> bool:
    """Whether there is a head of this name."""
    try:
        head_choice(name)
    except UserError:
        return False
    return True


_HEADS = "must name heads such as linear, pca512-linear, mlp, attentive-4 or mean-attentive-4"
DATA = Field(str, "name of a section of data", Rule(bool, "must name a section of data"))
TARGET = Field(str, "label that is predicted, such as ef or view", Rule(bool, "must name a label"))
VIEWS = Field(TEXTS, "only videos of these views; () = all")
HEAD = Field(str, "head of the probe", Rule(is_head, _HEADS))
HEADS = Field(
    TEXTS,
    "heads of the probes",
    Rule(lambda names: bool(names) and all(map(is_head, names)), _HEADS),
)
BY_STUDY = Field(
    bool, "also score studies: by the mean over their videos, and classes also by the majority"
)
