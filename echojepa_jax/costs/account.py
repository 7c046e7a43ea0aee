"""Where a TPU spends its time in a compiled program, from the compiler's own estimates.

The compiled program contains the expected cycles of nearly every instruction. They are summed here,
those of a loop as often as it runs. A hand-written kernel has no such estimate; its cycles are
counted in its schedule (see `bundles`).
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from echojepa_jax.costs import bundles, hlo
from echojepa_jax.costs.chips import Chip

COLLECTIVES = "collectives"
PRODUCTS, KERNELS, OTHER_KERNELS = "matrix products", "attention kernels", "other kernels"
ROTARY, MOVING, ELEMENTWISE = "rotary", "moving data", "elementwise"
KINDS = (PRODUCTS, KERNELS, OTHER_KERNELS, ROTARY, MOVING, ELEMENTWISE)

TARGET, ENCODER = "target encoder", "encoder"
OUTSIDE, OPTIMIZER = "outside the layers", "optimizer and EMA"
PARTS = (
    ENCODER,
    TARGET,
    "context encoder, forward",
    "context encoder, backward",
    "predictor, forward",
    "predictor, backward",
    OUTSIDE,
    OPTIMIZER,
)
_SCOPES = {
    "target_encoder": TARGET,
    "context_encoder": "context encoder",
    "predictor": "predictor",
    "Encoder": ENCODER,
}
"""The names of an objective's parts (train/objectives), and that of a single encoder."""

LEFT_OUT = (
    "The account leaves out the time that hand-written kernels wait for memory.",
    "It leaves out collectives, copies between memories, and gathers by a SparseCore, because they "
    "run at the same time as the rest. It also leaves out the time that the rest waits for them.",
    "A loop counts once if the program does not state how often it runs. Kernels with equal "
    "names and shapes count the same.",
    "It leaves out the time to start each instruction. Ratios are more reliable than times.",
)
"""What the account leaves out."""

NO_ESTIMATES = (
    "the compiler gave no cycle estimates: the account of where the time goes is left out"
)

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_PRODUCTS = {"dot", "convolution"}
_JOINS = {"add", "maximum", "or"}  # operations by which the compiler concatenates padded arrays
_MOVES = {
    *("broadcast", "concatenate", "copy", "dynamic-slice", "dynamic-update-slice", "gather"),
    *("pad", "reshape", "reverse", "scatter", "slice", "transpose"),
}
# Operations that accompany moving data and count neither as moving nor as computing.
_NEITHER = {
    *("bitcast", "bitcast-convert", "constant", "convert", "custom-call", "fusion"),
    *("get-tuple-element", "iota", "parameter", "partition-id", "tuple"),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """An instruction of a program. cycles: of all its runs; None = a kernel without a schedule."""

    name: str
    shape: str
    part: str
    kind: str
    op_name: str
    runs: int
    cycles: int | None


@dataclasses.dataclass(frozen=True)
class Account:
    """All instructions that take time on one device. clock: of the device, cycles per second."""

    rows: tuple[Row, ...]
    clock: float

    @property
    def seconds(self) -> float:
        return sum(self.seconds_of(row) for row in self.rows)

    @property
    def without_cost(self) -> list[Row]:
        """Kernels whose cycles are not known."""
        return [row for row in self.rows if row.cycles is None]

    def seconds_of(self, row: Row) -> float:
        return (row.cycles or 0) / self.clock

    def by(self, key: Callable[[Row], str], order: Iterable[str]) -> dict[str, float]:
        """Seconds by part or by kind, for the names in `order` that occur, in that order."""
        found = {name: 0.0 for name in order if any(key(row) == name for row in self.rows)}
        for row in self.rows:
            found[key(row)] += self.seconds_of(row)
        return found

    def by_part(self) -> dict[str, float]:
        return self.by(lambda row: row.part, PARTS)

    def by_kind(self) -> dict[str, float]:
        return self.by(lambda row: row.kind, KINDS)

    def dearest(self, count: int) -> list[Row]:
        return sorted(self.rows, key=lambda row: -(row.cycles or 0))[:count]

    def by_part_and_kind(self) -> dict[str, dict[str, float]]:
        return {
            part: Account(tuple(row for row in self.rows if row.part == part), self.clock).by_kind()
            for part in self.by_part()
        }


def of_dump(folder: Path, chip: Chip, schedules: Path | None) -> Account | None:
    """The account of the program whose compilation wrote its dump to this folder.

    Args:
      schedules: the folder given to `ahead.prepare_environment`; None = no schedules.

    Returns:
      None if the compiler gave no estimates.
    """
    found = bundles.schedules(schedules) if schedules else {}
    for file in folder.glob("*after_codegen.txt"):
        text = file.read_text()
        if _CYCLES.search(text):
            return account(text, chip, found)
    return None


def account(text: str, chip: Chip, schedules: Mapping[str, Path]) -> Account:
    """The account of a program.

    Args:
      text: of the program after code generation, with the compiler's estimates.
      chip: the target of the compilation.
      schedules: of kernels, see `bundles.schedules`.

    Raises:
      ValueError: the text has no entry computation.
    """
    bodies = hlo.computations(text)
    kernels = {
        name: bundles.cycles(path.read_text(), chip.delay)
        for name, path in _with_twins(bodies, schedules).items()
    }
    return Account(tuple(_rows(bodies, hlo.entry(text), 1, "", kernels)), chip.clock)


def _with_twins(bodies: hlo.Bodies, schedules: Mapping[str, Path]) -> dict[str, Path]:
    """The schedules of all kernels; equal kernels, which are compiled once, share a schedule."""
    twins: dict[tuple[str, ...], Path] = {}
    kernels = [
        (one.name, _kernel_key(one))
        for lines in bodies.values()
        for line in lines
        if "tpu_custom_call" in line and (one := hlo.instruction(line)) and is_kernel(one)
    ]
    for name, key in kernels:
        if name in schedules:
            twins[key] = schedules[name]
    return {name: twins[key] for name, key in kernels if key in twins}


def _kernel_key(one: hlo.Instruction) -> tuple[str, ...]:
    """A key that is equal for kernels that are compiled once: the name and shapes of arrays."""
    operands = re.search(r"operand_layout_constraints=\{(.*?)\}, [a-z]", one.line)
    stem = re.sub(r"[.\d]+$", "", one.name)
    return stem, re.sub(r":?S\(\d+\)", "", one.shape), operands[1] if operands else ""


def _rows(
    bodies: hlo.Bodies, name: str, runs: int, inside: str, kernels: Mapping[str, int]
) -> Iterator[Row]:
    """The rows of a computation that runs `runs` times.

    inside: the op_name of the surrounding loop, for instructions without their own.
    kernels: the cycles of one run of each.
    """
    for line in bodies.get(name, []):
        found = hlo.instruction(line)
        if found is None:
            continue
        # Instructions that the compiler added have names without a place, such as "reduce_scatter".
        place = found.op_name if found.op_name.startswith("jit(") else inside
        if found.opcode == "while":
            body, trips = hlo.loop(line, bodies) or ("", 1)
            yield from _rows(bodies, body, runs * trips, place, kernels)
        elif found.opcode == "conditional":
            branches = "branch_computations", "true_computation", "false_computation"
            ways = [
                list(_rows(bodies, way, runs, place, kernels))
                for way in hlo.callees(line, *branches)
            ]
            # Only one of them runs: count the slowest.
            yield from max(ways, key=lambda rows: sum(row.cycles or 0 for row in rows), default=[])
        elif found.opcode == "call":
            for callee in hlo.callees(line, "to_apply"):
                yield from _rows(bodies, callee, runs, place, kernels)
        else:
            # A fusion's estimate includes all that it contains.
            if row := _row(bodies, found, runs, place, kernels):
                yield row


def _row(
    bodies: hlo.Bodies, one: hlo.Instruction, runs: int, place: str, kernels: Mapping[str, int]
) -> Row | None:
    cycles: int | None = None
    if is_kernel(one):
        if one.name in kernels:
            cycles = kernels[one.name] * runs
    elif estimate := _CYCLES.search(one.line):
        cycles = int(estimate[1]) * runs
    else:
        return None
    kind = kind_of(one, list(contents(bodies, one)))
    return Row(one.name, one.shape, part_of(place), kind, place, runs, cycles)


def contents(bodies: hlo.Bodies, one: hlo.Instruction) -> Iterator[hlo.Instruction]:
    """The instructions in a fusion and in nested fusions; for other instructions, itself."""
    if one.opcode != "fusion":
        yield one
        return
    for callee in hlo.callees(one.line, "calls"):
        for line in bodies.get(callee, []):
            if inner := hlo.instruction(line):
                yield from contents(bodies, inner)


def is_kernel(one: hlo.Instruction) -> bool:
    return one.opcode == "custom-call" and 'custom_call_target="tpu_custom_call"' in one.line


def kind_of(one: hlo.Instruction, inner: list[hlo.Instruction]) -> str:
    """What an instruction does, by what it contains."""
    if is_kernel(one):
        names = one.name + one.op_name
        attention = any(word in names for word in ("attention", "splash", "flash", "mha"))
        return KERNELS if attention else OTHER_KERNELS
    products = [each for each in inner if each.opcode in _PRODUCTS]
    # Rotary embeddings also use a product, to swap neighbouring channels.
    if any(not _is_rotary(each) for each in products):
        return PRODUCTS
    by_name = {each.name: each for each in inner}
    moving = [each for each in inner if each.opcode in _MOVES or _joins(each, by_name)]
    computing = [
        each for each in inner if each.opcode not in _MOVES | _NEITHER and each not in moving
    ]
    rotary = sum(_is_rotary(each) for each in computing)
    if products or (computing and 2 * rotary >= len(computing)):
        return ROTARY
    if computing:
        return ELEMENTWISE
    if moving:
        return ROTARY if _is_rotary(one) else MOVING
    return ELEMENTWISE  # a conversion


def _joins(one: hlo.Instruction, by_name: Mapping[str, hlo.Instruction]) -> bool:
    """Whether it only combines padded arrays, which is how arrays are concatenated."""
    if one.opcode not in _JOINS:
        return False
    for name in one.operands:
        source = by_name.get(name)
        while source and source.opcode in ("convert", "bitcast"):
            source = by_name.get(source.operands[0])
        if not source or not (source.opcode == "pad" or _joins(source, by_name)):
            return False
    return True


def _is_rotary(one: hlo.Instruction) -> bool:
    return re.search(r"\brotary\b", one.op_name) is not None


def part_of(op_name: str) -> str:
    """The part of a training step that an instruction comes from.

    Recomputation for the backward pass belongs to the backward pass.
    """
    if re.search(r"\b(optimizer|ema)\b", op_name):
        return OPTIMIZER
    scope = re.search(rf"\b({'|'.join(_SCOPES)})\b", op_name)
    if not scope or "stack" not in op_name.split("/"):
        return OUTSIDE
    name = _SCOPES[scope[1]]
    if name in (TARGET, ENCODER):
        return name
    return f"{name}, {'backward' if 'transpose(' in op_name else 'forward'}"
