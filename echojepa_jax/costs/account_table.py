"""The account of a program, as lines of text and as JSON."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from echojepa_jax.costs.account import COLLECTIVES, LEFT_OUT, Account
from echojepa_jax.costs.chips import Chip
from echojepa_jax.utils.counts import counted


def lines(
    account: Account, flops: Mapping[str, float], chip: Chip, sent: float, dearest: int, whole: str
) -> list[str]:
    """A table of the account.

    Args:
      flops: of the model on this device, by part.
      sent: seconds of collectives, from data sheets.
      dearest: number of the slowest instructions to list.
      whole: name of the program, such as "a step".
    """
    total = account.seconds
    reached = _reached(sum(flops.values()), total, chip)
    found = [
        f"account of {whole} on a chip (the compiler's ESTIMATE of every instruction)",
        f"  {'part':<28}{'time':>12}{'share':>9}{'of peak':>9}",
    ]
    for part, seconds in account.by_part().items():
        peak = f"{_reached(flops[part], seconds, chip):9.1%}" if part in flops else ""
        found.append(f"  {part:<28}{_ms(seconds)}{_share(seconds, total)}{peak}")
    found += [
        f"  {'total':<28}{_ms(total)}{_share(total, total)}{reached:9.1%}",
        "",
        f"  {'kind':<28}{'time':>12}{'share':>9}",
    ]
    for kind, seconds in account.by_kind().items():
        found.append(f"  {kind:<28}{_ms(seconds)}{_share(seconds, total)}")
    if sent:
        found.append(f"  {COLLECTIVES:<28}{_ms(sent)}   from data sheets, not in the total")
    if dearest:
        found += ["", f"  the slowest {dearest} instructions, sum of all runs"]
    for row in account.dearest(dearest):
        shape = row.shape if len(row.shape) <= _WIDEST else row.shape[: _WIDEST - 3] + "..."
        found.append(
            f"  {_ms(account.seconds_of(row))}  {row.kind}; {row.part}; "
            f"{counted(row.runs, 'run')}; {row.name} {shape}; {row.op_name}"
        )
    return [*found, "", *(f"  {line}" for line in left_out(account))]


def left_out(account: Account) -> list[str]:
    """What the account leaves out, as sentences."""
    found = list(LEFT_OUT)
    if missing := account.without_cost:
        names = ", ".join(sorted({row.name for row in missing}))
        found.append(f"The schedules of these kernels were not found and are left out: {names}.")
    return found


def as_json(
    account: Account, flops: Mapping[str, float], chip: Chip, sent: float, dearest: int
) -> dict[str, Any]:
    """The same numbers; times are seconds."""
    total = account.seconds
    parts = account.by_part()
    return {
        "seconds": total,
        "of_peak": _reached(sum(flops.values()), total, chip),
        "by_part": parts,
        "of_peak_by_part": {
            part: _reached(flops[part], seconds, chip)
            for part, seconds in parts.items()
            if part in flops
        },
        "by_kind": account.by_kind(),
        "by_part_and_kind": account.by_part_and_kind(),
        "collectives_by_data_sheets": sent,
        "clock": account.clock,
        "dearest": [
            {**dataclasses.asdict(row), "seconds": account.seconds_of(row)}
            for row in account.dearest(dearest)
        ],
        "left_out": left_out(account),
    }


_WIDEST = 60


def _reached(flops: float, seconds: float, chip: Chip) -> float:
    """The share of the chip's peak."""
    return flops / seconds / chip.flops if seconds else 0.0


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:9.1f} ms"


def _share(seconds: float, total: float) -> str:
    return f"{seconds / total if total else 0.0:9.1%}"
