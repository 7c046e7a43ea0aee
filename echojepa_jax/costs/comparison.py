"""How many updates of one config cost as much as the whole run of another one.

A baseline is matched in one of four ways: by updates, by clips, by FLOPs, or by time on the device.
FLOPs count only the tokens that a step keeps.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from echojepa_jax.costs import flops
from echojepa_jax.costs.units import scaled
from echojepa_jax.train.config import mask_specs
from echojepa_jax.utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of a config, as it is compared. seconds: of one update on the device."""

    name: str
    config: ConfigDict
    seconds: float

    @property
    def updates(self) -> int:
        return self.config.optim.epochs * self.config.optim.updates_per_epoch

    @property
    def clips(self) -> int:
        """Of one update."""
        return self.config.optim.global_batch

    @property
    def flops(self) -> float:
        """Of one update."""
        return flops.of_step(self.config)


def seconds_measured(path: Path, config: ConfigDict) -> float:
    """Seconds of one update, from a file of `bench --out` for the same config with any batch size.

    Raises:
      UserError: the file is not from `bench --out`, or was measured with clips of another size.
    """
    try:
        facts = json.loads(path.read_text())["facts"]
        rate, cost = float(facts["clips_per_second"]), float(facts["tflop_per_clip"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a file of bench --out ({error}): make it with bench"
        ) from error
    wanted = flops.of_clip(config).total / 1e12
    if abs(cost / wanted - 1) > 0.01:
        raise UserError(
            f"{path} was measured with another config: a clip costs {cost:.3g} TFLOP there and "
            f"{wanted:.3g} TFLOP in this config; measure this one with bench"
        )
    return config.optim.global_batch / rate


def matched_updates(mine: Run, other: Run) -> dict[str, float]:
    """Updates of `mine` that equal the whole run of `other`, by the way in which they equal it."""
    return {
        "updates": float(other.updates),
        "clips": other.updates * other.clips / mine.clips,
        "FLOPs": other.updates * other.flops / mine.flops,
        "device time": other.updates * other.seconds / mine.seconds,
    }


def lines(mine: Run, other: Run, how: str) -> list[str]:
    """The comparison as a table.

    Args:
      how: where the seconds come from, such as "measured".
    """
    found = [f"compared with {other.name}", f"  {'':<24}{mine.name:>20}{other.name:>20}"]
    parts: dict[str, list[Any]] = {}
    for run in (mine, other):
        clip = flops.of_clip(run.config)
        for name, value in {
            "tokens of a clip": tokens_of(run.config),
            "target encoder": scaled(clip.target, "FLOP"),
            "context encoder": scaled(clip.context, "FLOP"),
            "predictor or decoder": scaled(clip.predictor, "FLOP"),
            "outside the blocks": scaled(clip.outside, "FLOP"),
            "a clip": scaled(clip.total, "FLOP"),
            "an update": f"{run.clips:,} clips",
            "its time": scaled(run.seconds, "s"),
            "the run": f"{run.updates:,} updates",
        }.items():
            parts.setdefault(name, []).append(value)
    found += [f"  {name:<24}{a:>20}{b:>20}" for name, (a, b) in parts.items()]
    found += ["", f"  {mine.name} equals the run of {other.name}"]
    for way, updates in matched_updates(mine, other).items():
        note = f" ({how})" if way == "device time" else ""
        share = mine.updates / updates
        found.append(
            f"    by {way + note:<40}{updates:>12,.0f} updates; it makes {share:.3g} of them"
        )
    return found


def tokens_of(config: ConfigDict) -> str:
    """Visible and masked tokens that a step keeps, over all masks: "376 + 1768"."""
    masks = mask_specs(config).values()
    visible, hidden = (
        sum(getattr(mask, field) for mask in masks) for field in ("context_tokens", "target_tokens")
    )
    return f"{visible} + {hidden}"


def as_json(mine: Run, other: Run, how: str) -> dict[str, Any]:
    """The same as numbers."""

    def facts(run: Run) -> Mapping[str, Any]:
        clip = flops.of_clip(run.config)
        return {
            "flops_of_a_clip": {**dataclasses.asdict(clip), "total": clip.total},
            "clips_of_an_update": run.clips,
            "seconds_of_an_update": run.seconds,
            "updates": run.updates,
        }

    return {
        "name": other.name,
        "mine": facts(mine),
        "other": facts(other),
        "seconds": how,
        "matched_updates": matched_updates(mine, other),
    }
