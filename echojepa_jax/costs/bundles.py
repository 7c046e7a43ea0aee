"""Counts the cycles of a TPU kernel in its final schedule, because it has no other estimate.

The TPU compiler can write a kernel as a list of bundles; a core starts one bundle per cycle. Loops
and parts that run only at some steps are branches that depend on counters. So this module computes
the counters, bundle by bundle, and counts the bundles that run. It does not compute data: a branch
that depends on data counts as not taken, so that the code that it would skip counts in full, and a
loop that depends on data counts once.
"""

import dataclasses
import operator
import re
from collections.abc import Callable
from pathlib import Path

Value = int | None
"""A number, or the truth as 0 and 1; None = not known."""

_FILE = re.compile(r"^\d+-(.+)-\d+-final_bundles\.txt$")
_BUNDLE = re.compile(r"^ *(?:0x[0-9a-f]+|0) +(?:[A-Z]{2})? *: *>* *\{", re.MULTILINE)
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_REGION = re.compile(r"Start(?:/End empty)? region (\d+)")
_BRANCH = re.compile(r"= sbr\.rel (?:\((!?%\w+)\) )?target = \$region(\d+)")
_STATEMENT = re.compile(r"(%\w+) = ([a-z][\w.]*) (?:\((!?%\w+)(?:, (%\w+))?\), )?(.*)")
_LOAD = re.compile(r"(%\w+) = sld (\[smem:\[#\w+_spill\]\])")
_STORE = re.compile(r"= sst (\[smem:\[#\w+_spill\]\]) (%\w+)")

_COMPARE = {name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}
_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "sadd.s32": operator.add,
    "ssub.s32": operator.sub,
    "smul.u32": operator.mul,
    "smulhi.u32": lambda a, b: (_unsigned(a) * _unsigned(b)) >> 32,
    "sand.u32": lambda a, b: a & b,
    "sor.u32": lambda a, b: a | b,
    "sxor.u32": lambda a, b: a ^ b,
    "sshll.u32": lambda a, b: a << b,
    "sshrl.u32": lambda a, b: _unsigned(a) >> b,
    "sshra.s32": lambda a, b: a >> b,
    "smin.u32": lambda a, b: min(_unsigned(a), _unsigned(b)),
    "smax.u32": lambda a, b: max(_unsigned(a), _unsigned(b)),
}


@dataclasses.dataclass(frozen=True)
class _Statement:
    """`result = operation(operands)`, or `otherwise` if the condition is false."""

    result: str
    operation: str
    operands: tuple[str, ...]
    condition: str = ""
    otherwise: str = ""

    def needs(self) -> set[str]:
        names = (*self.operands, self.condition, self.otherwise)
        return {name.lstrip("!") for name in names if name}


@dataclasses.dataclass(frozen=True)
class _Bundle:
    """The relevant parts of a bundle. branch: condition ("" = always) and region, or None."""

    statements: tuple[_Statement, ...]
    branch: tuple[str, str] | None


def schedules(folder: Path) -> dict[str, Path]:
    """The schedule files of the TPU compiler, by name of the instruction.

    See `ahead.prepare_environment`. If several have the same name, the last one counts.
    """
    files = sorted(path for path in folder.iterdir() if _FILE.match(path.name))
    return {_FILE.sub(r"\1", path.name): path for path in files}


def cycles(text: str, delay: int) -> int:
    """The number of bundles that run in a schedule, with repetitions.

    Args:
      delay: bundles behind a branch that run before it takes effect.
    """
    bundles, places = _parse(text)
    wanted = _interesting(bundles)
    # Bundles with something to compute; those between them are only counted.
    stops = [
        (tuple(one for one in bundle.statements if one.result in wanted), bundle.branch)
        for bundle in bundles
    ]
    following = [len(stops)] * (len(stops) + 1)
    for place in range(len(stops) - 1, -1, -1):
        busy = any(stops[place])
        following[place] = place if busy else following[place + 1]
    known: dict[str, Value] = {}
    written: dict[str, int] = {}
    count, place, clock = 0, 0, 0

    def run(statements: tuple[_Statement, ...]) -> None:
        nonlocal clock
        for one in statements:
            if one.condition and not one.otherwise and _read(one.condition, known) == 0:
                continue  # it leaves its register as it is
            clock += 1
            known[one.result] = _evaluated(one, known, written)
            written[one.result] = clock

    while place < len(stops):
        stop = following[place]
        count += stop - place
        if stop == len(stops):
            break
        statements, branch = stops[stop]
        run(statements)
        count += 1
        place = stop + 1
        if branch and (not branch[0] or _read(branch[0], known) == 1):
            target = places[branch[1]]
            # Up to the end of the delay or of the program.
            until = min(place + delay, len(stops))
            for late in stops[place:until]:
                run(late[0])
            count += until - place
            place = target
    return count


def _parse(text: str) -> tuple[list[_Bundle], dict[str, int]]:
    """The bundles in order, and the position of the first bundle of each region."""
    starts = [found.end() for found in _BUNDLE.finditer(text)]
    bundles, places = [], {}
    for place, (start, end) in enumerate(zip(starts, [*starts[1:], len(text)], strict=True)):
        line = text[start:end]
        for region in _REGION.findall(line):
            places[region] = place
        branch, statements = None, []
        for part in _COMMENT.sub("", line).split(";;"):
            if found := _BRANCH.search(part):
                branch = (found[1] or "", found[2])
            elif (found := _LOAD.search(part)) or (found := _STORE.search(part)):
                statements.append(_Statement(found[1], "smov.u32", (found[2],)))
            elif found := _STATEMENT.search(part):
                words = map(str.strip, found[5].rstrip(" \n}").split(","))
                condition, otherwise = found[3] or "", found[4] or ""
                operands = tuple(filter(None, words))
                statements.append(_Statement(found[1], found[2], operands, condition, otherwise))
        # A loop's counter has its new value in the whole bundle.
        statements.sort(key=lambda one: one.operation not in ("sphi", "pphi"))
        bundles.append(_Bundle(tuple(statements), branch))
    return bundles, places


def _interesting(bundles: list[_Bundle]) -> set[str]:
    """The values that some branch depends on."""
    makers: dict[str, list[_Statement]] = {}
    for bundle in bundles:
        for one in bundle.statements:
            makers.setdefault(one.result, []).append(one)
    todo = [b.branch[0].lstrip("!") for b in bundles if b.branch and b.branch[0]]
    found: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += [need for one in makers.get(name, []) for need in one.needs()]
    return found


def _read(word: str, known: dict[str, Value]) -> Value:
    if word.startswith("!"):
        value = _read(word[1:], known)
        return None if value is None else 1 - value
    if re.fullmatch(r"-?\d+", word):
        return _signed(int(word))
    return known.get(word)


def _evaluated(one: _Statement, known: dict[str, Value], written: dict[str, int]) -> Value:
    if one.condition:
        holds = _read(one.condition, known)
        if holds != 1:
            return _read(one.otherwise, known) if holds == 0 and one.otherwise else None
    if one.operation in ("sphi", "pphi"):
        # All operands share a register, which contains the last value written.
        latest = max(one.operands, key=lambda word: written.get(word, 0))
        return _read(latest, known)
    values = [_read(word, known) for word in one.operands]
    if one.operation in ("por", "pand", "pnor", "pnand"):
        return _logic(one.operation, values)
    if one.operation == "scalar_select":
        return values[1] if values[0] == 1 else values[2] if values[0] == 0 else None
    if None in values:
        return None
    numbers = [value for value in values if value is not None]
    if one.operation in ("smov.u32", "pmov"):
        return numbers[0]
    if one.operation == "pneg":
        return 1 - numbers[0]
    if one.operation in _ARITHMETIC:
        return _signed(_ARITHMETIC[one.operation](*numbers))
    if found := re.match(r"scmp\.(\w\w)\.(s32|u32)", one.operation):
        if found[2] == "u32":
            numbers = [_unsigned(value) for value in numbers]
        return int(_COMPARE[found[1]](*numbers))
    return None


def _logic(operation: str, values: list[Value]) -> Value:
    """A logical operation on two truth values; one can decide it if the other is unknown."""
    decides = 1 if operation in ("por", "pnor") else 0
    result = decides if decides in values else None if None in values else 1 - decides
    return result if result is None or operation in ("por", "pand") else 1 - result


def _signed(value: int) -> int:
    return (value + 2**31) % 2**32 - 2**31


def _unsigned(value: int) -> int:
    return value % 2**32
