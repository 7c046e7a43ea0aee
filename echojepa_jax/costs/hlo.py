"""Reading the text of a compiled program (HLO): its computations, their instructions, its loops."""

import dataclasses
import functools
import re

_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_ENTRY = re.compile(r"^ENTRY %?([\w.\-]+)", re.MULTILINE)
_CALL = re.compile(
    r"(calls|to_apply|body|condition|branch_computations|called_computations|true_computation"
    r"|false_computation)=(?:\{([^}]*)\}|%?([\w.\-]+))"
)
_WHILE = re.compile(r" while\(.*condition=%?([\w.\-]+).*body=%?([\w.\-]+)")
_TRIPS = re.compile(r'known_trip_count"?:\s*\{"?n"?:"?(\d+)')
_CONSTANT = re.compile(r"%?([\w.\-]+) = [su]\d+\[\][^ ]* constant\((\d+)\)")
_COMPARE = re.compile(r" compare\((.*?)\), direction=(\w+)")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(")
_OP_NAME = re.compile(r'op_name="([^"]*)"')

Bodies = dict[str, list[str]]
"""The lines of every computation of a program."""


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation: `%name = shape opcode(...)`, with all that follows."""

    name: str
    shape: str
    opcode: str
    line: str

    @property
    def op_name(self) -> str:
        """Its origin in the traced program, such as "jit(f)/Encoder/add"; "" = unknown."""
        found = _OP_NAME.search(self.line)
        return found[1] if found else ""

    @property
    def operands(self) -> list[str]:
        """The names of its operands."""
        return re.findall(r"%([\w.\-]+)", self.line.split(f" {self.opcode}(", 1)[1].split(")")[0])


def computations(text: str) -> Bodies:
    """All computations of a program's text, by name."""
    bodies: Bodies = {}
    lines: list[str] | None = None
    for line in text.splitlines():
        if head := _HEAD.match(line):
            lines = bodies[head[1]] = []
        elif line == "}":
            lines = None
        elif lines is not None:
            lines.append(line)
    return bodies


def entry(text: str) -> str:
    """The name of the computation that a program begins with.

    Raises:
      ValueError: the text has none.
    """
    found = _ENTRY.search(text)
    if not found:
        raise ValueError("not the text of a compiled program: it has no ENTRY")
    return found[1]


def instruction(line: str) -> Instruction | None:
    """The instruction of that line of a computation, if it is one."""
    found = _INSTRUCTION.match(line)
    return Instruction(found[1], found[2], found[3], line) if found else None


def callees(line: str, *attributes: str) -> list[str]:
    """The computations that an instruction calls, such as those after "body=".

    Args:
      attributes: only the computations after these; none = all.
    """
    return [
        name
        for attribute, several, one in _CALL.findall(line)
        if not attributes or attribute in attributes
        for name in (re.findall(r"[\w.\-]+", several) if several else [one])
    ]


def loop(line: str, bodies: Bodies) -> tuple[str, int] | None:
    """The body of the loop of that line, and how often it runs; None if it is not a loop."""
    found = _WHILE.search(line)
    if not found:
        return None
    known = _TRIPS.search(line)
    return found[2], int(known[1]) if known else _trips(bodies.get(found[1], []))


def runs(bodies: Bodies, entry: str) -> dict[str, int]:
    """How often each computation runs in one run of the entry."""
    callers: dict[str, list[tuple[str, int]]] = {name: [] for name in bodies}
    for name, lines in bodies.items():
        for line in lines:
            body, trips = loop(line, bodies) or ("", 1)
            for callee in callees(line):
                if callee in callers:
                    callers[callee].append((name, trips if callee == body else 1))

    @functools.cache
    def of(name: str) -> int:
        return 1 if name == entry else sum(of(caller) * times for caller, times in callers[name])

    return {name: of(name) for name in bodies}


def _trips(condition: list[str]) -> int:
    """How often a loop from 0 to a constant runs; 1 for other loops."""
    constants = {m[1]: int(m[2]) for line in condition if (m := _CONSTANT.search(line))}
    for line in condition:
        if (compare := _COMPARE.search(line)) and compare[2] == "LT":
            names = re.findall(r"[\w.\-]+", compare[1])
            return next((constants[name] for name in names if name in constants), 1)
    return 1
