"""Which collectives a compiled program contains, how often they run in a step, and their bytes.

Read from the program's text (HLO). A loop's body counts as often as the loop runs; what the
compiler has split into the start and the end of one transfer counts once.
"""

import dataclasses
import math
import re
from collections.abc import Iterable

from echojepa_jax.costs import hlo

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
_BYTES |= {"f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}

_OPERATION = re.compile(r"= (.+?) (" + "|".join(KINDS) + r")(-start)?\(")
_ARRAY = re.compile(r"\b(\w+)\[([\d,]*)\]")
# The participants: lists of devices, or [groups, devices per group]; empty = all.
_GROUPS = re.compile(r"replica_groups=(?:\{\{([\d,]+)\}|\[\d+,(\d+)\])")
# The same as axes of a mesh: "mesh['a'=2,'b'=4] {'b'}" are groups of 4; "'b':(2)2" is a part of b.
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
_AXIS = re.compile(r"'(\w+)'(?:=(\d+)|:\(\d+\)(\d+))?")
_PARTITIONS = re.compile(r"^HloModule .*num_partitions=(\d+)")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One operation of a program. shapes: of its results, such as "bf16[8,64]".

    bytes: of all results on one device. runs: in one step. devices: number of participants.
    """

    kind: str
    shapes: tuple[str, ...]
    bytes: int
    runs: int
    devices: int

    @property
    def sent(self) -> float:
        """The least number of bytes that one device sends in one run (in a ring)."""
        others = self.devices - 1
        if self.kind == "reduce-scatter":
            return self.bytes * others
        times = {"all-reduce": 2, "collective-permute": self.devices / max(1, others)}
        return times.get(self.kind, 1) * self.bytes * others / self.devices


def collectives(text: str) -> list[Collective]:
    """All collectives of a program's text, without those on single numbers.

    Raises:
      ValueError: the text has no entry computation.
    """
    bodies = hlo.computations(text)
    runs = hlo.runs(bodies, hlo.entry(text))
    partitions = _PARTITIONS.search(text)
    everyone = int(partitions[1]) if partitions else 1
    found = []
    for name, lines in bodies.items():
        if not runs.get(name) or _continues_a_transfer(name, lines):
            continue
        for line in lines:
            if operation := _OPERATION.search(line):
                kind = operation[2]
                shapes, size = _result(operation[1], kind, bool(operation[3]))
                if kind == "all-reduce" and (part := _kept_part(lines)):
                    kind, (shapes, size) = "reduce-scatter", _result(part, kind, False)
                if size > 8:
                    devices = _together(line) or everyone
                    found.append(Collective(kind, shapes, size, runs[name], devices))
    return sorted(found, key=lambda one: -one.bytes * one.runs)


def by_kind(found: Iterable[Collective]) -> dict[str, tuple[int, int, float]]:
    """Runs, bytes of results, and bytes sent by a device in a step, by kind."""
    totals: dict[str, tuple[int, int, float]] = {}
    for one in found:
        runs, size, sent = totals.get(one.kind, (0, 0, 0.0))
        more = size + one.runs * one.bytes, sent + one.runs * one.sent
        totals[one.kind] = (runs + one.runs, *more)
    return totals


def _together(line: str) -> int:
    """How many devices take part in the collective of that line; 0 = all."""
    if groups := _MESH_GROUPS.search(line):
        axes, joined = (_AXIS.findall(text) for text in groups.groups())
        sizes = {name: int(size) for name, size, _ in axes}
        return math.prod(int(part) if part else sizes[name] for name, _, part in joined)
    groups = _GROUPS.search(line)
    if not groups:
        return 0
    return len(groups[1].split(",")) if groups[1] else int(groups[2])


def _continues_a_transfer(name: str, lines: list[str]) -> bool:
    """Whether a TPU's computation repeats a collective that was started in another one."""
    text = "".join(lines)
    started_here = "AsyncCollectiveStart" in text
    return not started_here and ("AsyncCollectiveDone" in text or "async_collective_fusion" in name)


def _kept_part(lines: list[str]) -> str | None:
    """The type of the slice of an all-reduce that is sliced directly, so a reduce-scatter."""
    root = re.search(r"ROOT %\S+ = (\S+) dynamic-slice\(%all-reduce", "\n".join(lines))
    return root[1] if root else None


def _result(types: str, kind: str, is_start: bool) -> tuple[tuple[str, ...], int]:
    """The resulting arrays of a collective, and their bytes."""
    arrays = [
        (f"{dtype}[{shape}]", math.prod(int(n) for n in shape.split(",") if n) * _BYTES[dtype])
        for dtype, shape in _ARRAY.findall(types)
        if dtype in _BYTES
    ]
    if is_start and kind != "all-reduce":
        # The start of a transfer returns its operands, its results, and counters.
        arrays = [array for array in arrays if not array[0].endswith("[]")]
        arrays = arrays[len(arrays) // 2 :]
    return tuple(shape for shape, _ in arrays), sum(size for _, size in arrays)
