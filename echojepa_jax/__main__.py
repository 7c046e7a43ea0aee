"""The command `echojepa`, or `python -m echojepa_jax`: lists the programs, or runs one of them.

Before a program is chosen, only Python's standard library is imported, so that the list appears at
once.
"""

import ast
import contextlib
import difflib
import runpy
import sys
from pathlib import Path

from echojepa_jax import __version__

PROGRAMS = {
    "train": "main",
    "prepare": "prepare",
    "probe": "probe",
    "predict": "predict",
    "evaluate": "evaluate",
    "embed": "embed",
    "map": "map",
    "attention": "attention",
    "export": "export",
    "convert": "convert",
    "plan": "plan",
    "bench": "bench",
}
"""Names of the programs and of their modules in this package."""


def overview() -> str:
    """A list of the programs, each with the first line of its docstring."""
    lines = ["Train EchoJEPA, a model of echocardiography videos, and use it.", ""]
    for name, module in PROGRAMS.items():
        source = Path(__file__).with_name(f"{module}.py").read_text("utf-8")
        about = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        lines.append(f"  echojepa {name:9} {about}")
    lines += [
        "",
        "For example: echojepa train --config=demo --workdir=runs/demo",
        "`echojepa PROGRAM --help` shows more examples and all flags.",
        "`python -m echojepa_jax.PROGRAM` does the same; `train` is called `main` there.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Runs the program named by the first argument with the remaining arguments."""
    words = sys.argv[1:]
    if not words or words[0] in ("--help", "-h", "help"):
        with contextlib.suppress(BrokenPipeError):  # of a reader such as `head`
            print(overview(), flush=True)
    elif words[0] == "--version":
        print(f"echojepa_jax {__version__}")
    elif words[0] not in PROGRAMS:
        close = difflib.get_close_matches(words[0], PROGRAMS, 1)
        hint = f"; the nearest is {close[0]!r}" if close else ""
        sys.exit(f"error: there is no program {words[0]!r}{hint}; `echojepa` alone lists them")
    else:
        sys.argv[1:] = words[1:]
        # Run as by `python -m`: child processes find the program by its module name.
        module = f"echojepa_jax.{PROGRAMS[words[0]]}"
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
