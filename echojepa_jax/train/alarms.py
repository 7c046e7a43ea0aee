"""Alarms of a run: lines of its metrics that may show a collapse of the representation (F19).

The log and the report both use this file, so that they raise the same alarms.
"""

import math
import statistics
from collections.abc import Iterable, Mapping

# A measure below (or above) its limit raises an alarm.
MIN_RANK_SHARE = 0.5
MAX_COSINE = 0.98
MAX_RELATIVE_ERROR = 1.0
# Health is judged only after this share of the run.
JUDGED_FROM = 0.1
# A fall of the loss is found by comparing the median of the latest lines of metrics to the band of
# the lines before them. These are the numbers of lines.
FALL_RECENT, FALL_BEFORE, FALL_AT_LEAST = 3, 30, 20


class Judge:
    """Raises alarms from the lines of a run's metrics, one after the other.

    The first tenth of a run is not judged: little has been learned then.

    last_step: of the whole run.
    """

    def __init__(self, last_step: int) -> None:
        self.judged_after = JUDGED_FROM * last_step
        self._best_rank = 0.0
        self._losses: list[float] = []

    def line(self, line: Mapping[str, float | None]) -> dict[str, str]:
        """Judges a line of metrics.jsonl.

        Args:
          line: "step", and any of "loss" and "health/NAME" for the names that `measure` returns. A
            value that was not finite (null in the file) raises no alarm.

        Returns:
          A sentence for each alarm, by the name of the metric.
        """
        now = {name: value for name, value in line.items() if value is not None}
        judged = now["step"] > self.judged_after
        fall = self._fall(now["loss"], judged) if "loss" in now else ""
        found = {"loss": fall} if fall else {}
        if not judged:
            return found
        rank = now.get("health/effective_rank", math.nan)
        if rank < MIN_RANK_SHARE * self._best_rank:
            found["health/effective_rank"] = (
                f"effective rank {rank:.1f} is less than half of its maximum, {self._best_rank:.1f}"
            )
        self._best_rank = max(self._best_rank, rank)
        if (cosine := now.get("health/cosine_similarity", math.nan)) > MAX_COSINE:
            found["health/cosine_similarity"] = (
                f"different clips look alike: cosine similarity {cosine:.3f} is above {MAX_COSINE}"
            )
        if (error := now.get("health/relative_error", math.nan)) > MAX_RELATIVE_ERROR:
            found["health/relative_error"] = (
                f"the predictor is no better than the mean target: relative error {error:.2f}"
            )
        return found

    def _fall(self, loss: float, judged: bool) -> str:
        """A sentence if the loss has just fallen below its band, which may be a partial collapse.

        The band reaches from the 10th to the 90th percentile of the lines before the latest ones.
        The loss has fallen if the median of the latest lines is below the band by more than the
        height of the band. Each fall is reported once.
        """
        seen = self._losses
        if math.isfinite(loss):
            seen.append(loss)
        del seen[: -FALL_BEFORE - FALL_RECENT]
        before, latest = seen[:-FALL_RECENT], seen[-FALL_RECENT:]
        if not judged or len(before) < FALL_AT_LEAST:
            return ""
        tenths = statistics.quantiles(before, n=10)
        now, low, high = statistics.median(latest), tenths[0], tenths[-1]
        if now >= low - (high - low):
            return ""
        del seen[:-FALL_RECENT]
        return f"the loss fell suddenly to {now:.3g}; it was between {low:.3g} and {high:.3g}"


def standing_alarms(lines: Iterable[Mapping[str, float | None]], last_step: int) -> list[str]:
    """The alarms of the latest value of each measure, and of every sudden fall of the loss.

    Args:
      lines: of metrics.jsonl, in the order of steps.
      last_step: of the whole run.
    """
    judge, standing, falls = Judge(last_step), dict[str, str](), []
    for line in lines:
        found = judge.line(line)
        if "loss" in found:
            falls.append(f"{found.pop('loss')} (step {line['step']:,})")
        for name, value in line.items():
            if value is not None:
                standing.pop(name, None)
        standing |= found
    return [*standing.values(), *falls]
