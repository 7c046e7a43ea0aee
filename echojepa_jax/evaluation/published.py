"""Numbers of the paper (EchoJEPA, 2026), for tables of the same public data set.

Its tables also have private data sets, and RVSP, whose targets were cut to integers: these cannot
be compared and are left out. Protocols differ even here: see docs/evaluation.md.
"""

from collections.abc import Mapping, Sequence, Set

from ml_collections import ConfigDict

# Its models, in the order of the numbers below.
MODELS = ("EchoPrime", "PanEcho", "EchoMAE-L", "EchoJEPA-L", "EchoJEPA-G")

LVEF_DYNAMIC = (4.87, 5.10, 8.52, 5.76, 3.97)
PEDIATRIC_ZERO_SHOT = (5.10, 5.66, 6.79, 6.31, 4.32)
PEDIATRIC_RETRAINED = (4.53, 5.34, 6.75, 5.12, 3.88)
# Of EchoJEPA-L alone: low, medium, high.
ROBUSTNESS = {
    "none": {"": 5.76},
    "radial_attenuation": {"low": 5.72, "medium": 5.91, "high": 6.10},
    "shadow": {"low": 5.79, "medium": 5.87, "high": 5.97},
}
_HEAD = "attentive-4"


def named(model: str) -> str:
    """The name of one of the paper's models in tables."""
    return f"{model}, as published"


def numbers(
    options: ConfigDict, kinds: Mapping[str, Set[str]], variant: Mapping[str, str]
) -> dict[str, float]:
    """The paper's mean absolute errors for a row of a task's table, by model; {} if it has none.

    Args:
      options: of the task. kinds: of the sources of every data set, such as {"echonet_dynamic"}.
    """
    if options.get("target", "").casefold() != "ef" or kinds[options.data] != {"echonet_dynamic"}:
        return {}
    found: Sequence[float] = ()
    match options.kind:
        case "regression":
            if variant["head"] == _HEAD and variant.get("level") != "study":
                found = LVEF_DYNAMIC
        case "robustness":
            value = ROBUSTNESS.get(variant["perturbation"], {}).get(variant["severity"])
            return {"EchoJEPA-L": value} if value else {}
        case "transfer" if kinds[options.to] == {"echonet_pediatric"}:
            every = variant["views"] == "all" and not variant["age"]
            if variant["scored on"] == options.to and every:
                own = variant["probe"] == "its own"
                found = PEDIATRIC_RETRAINED if own else PEDIATRIC_ZERO_SHOT
    return dict(zip(MODELS, found, strict=False))
