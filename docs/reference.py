"""Pages that are generated when the site is built, so that they cannot go stale (a mkdocs hook).

The home page is README.md; contributing and changes are the files at the top. The reference comes
from the source: configs, their fields, the programs' flags. Only the standard library and the
package itself are needed.
"""

import ast
import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[1]
PACKAGE, CONFIGS = TOP / "echojepa_jax", TOP / "configs"


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of a program, as its source defines it."""

    name: str
    kind: str  # of absl: string, integer, float, bool, enum, multi_string; or config_file
    default: Any
    help: str
    choices: tuple[str, ...] = ()


def programs() -> dict[str, str]:
    """Names of programs, and of their modules, as `echojepa` lists them."""
    from echojepa_jax.__main__ import PROGRAMS

    return PROGRAMS


def flags_of(module: str) -> dict[str, Flag]:
    """The flags of `echojepa_jax.<module>`, read from its source."""
    found = {}
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "").startswith("DEFINE_"):
            kind = node.func.attr.removeprefix("DEFINE_")
            name, default, *rest = [ast.literal_eval(argument) for argument in node.args]
            choices = tuple(rest.pop(0)) if kind == "enum" else ()
            found[name] = Flag(name, kind, default, rest[0], choices)
    return found


def row(*cells: str) -> str:
    """A row of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table(*head: str) -> list[str]:
    """The first two lines of a table."""
    return [row(*head), row(*["---"] * len(head))]


def as_code(value: Any) -> str:
    return f"`{value!r}`"


# --- pages --------------------------------------------------------------------------------------


def programs_page() -> str:
    """What each program says of itself, and its flags."""
    lines = [
        "# Programs and flags",
        "",
        "`echojepa PROGRAM` and `python -m echojepa_jax.MODULE` do the same. Every field of a "
        "config is a flag as well: `--config.section.field=value`, see "
        "[Config fields](fields.md).",
    ]
    for name, module in programs().items():
        text = ast.get_docstring(ast.parse((PACKAGE / f"{module}.py").read_text())) or ""
        lines += ["", f"## {name}", "", f"*`python -m echojepa_jax.{module}`*", "", _as_prose(text)]
        lines += ["", *table("flag", "default", "meaning")]
        for flag in flags_of(module).values():
            kind = " or ".join(f"`{choice}`" for choice in flag.choices if choice) or {
                "multi_string": "text, may be repeated",
                "config_file": "a config",
                "string": "text",
                "integer": "whole number",
                "float": "number",
                "bool": "true or false",
            }.get(flag.kind, flag.kind)
            default = "" if flag.default in (None, "", []) else as_code(flag.default)
            lines.append(row(f"`--{flag.name}`", default, f"{_escaped(flag.help)} ({kind})"))
    return "\n".join(lines)


def fields_page() -> str:
    """Every field of training, probes and suites: type, meaning, value in a shipped config."""
    from configs import mae_l, vit_l, vit_l_v21_images
    from configs.evaluation import phantom
    from configs.probes import lvef
    from echojepa_jax.evaluation import config as suites
    from echojepa_jax.probes import config as probes
    from echojepa_jax.train import config as train
    from echojepa_jax.utils.config_fields import described, leaves

    trained, baseline, probed = (
        dict(leaves(module.get_config())) for module in (vit_l, mae_l, lvef)
    )
    stills = dict(leaves(vit_l_v21_images.get_config()))
    images = train.IMAGE_FIELDS | {
        f"images.mask.{name}": field for name, field in train.MASK_FIELDS.items()
    }
    suite = dict(leaves(phantom.get_config()))
    suite_fields = suites.fields_of(phantom.get_config())
    masks = {f"masks.small.{name}": field for name, field in train.MASK_FIELDS.items()}
    lines = [
        "# Config fields",
        "",
        "Set a field on the command line with `--config.section.field=value`, or in your own "
        "config. The last column is the value in a shipped config.",
        "",
        "## Training",
        "",
        *_fields(described(train.FIELDS), trained, "vit_l"),
        "",
        "### masks",
        "",
        "`masks` contains one section for each mask specification, under a name of your choice.",
        "",
        *_fields(described(masks), trained, "vit_l", headings=False),
        "",
        "### mae",
        "",
        'A config of EchoMAE (`objective = "mae"`) has these fields instead of the sections '
        "`masks` and `objective`.",
        "",
        *_fields(described(train.MAE_FIELDS), baseline, "mae_l", headings=False),
        "",
        "### images",
        "",
        "A config of V-JEPA 2.1 may have this section, to train on stills as well.",
        "",
        *_fields(described(images), stills, "vit_l_v21_images", headings=False),
        "",
        "## Probes",
        "",
        *_fields(described(probes.FIELDS), probed, "lvef", prefix="probe "),
        "",
        "## Evaluation suites",
        "",
        *_fields(described(suite_fields), suite, "phantom", prefix="suite "),
        "",
        "`data` and `tasks` contain one section for each data set and each task, under names of "
        "your choice.",
    ]
    return "\n".join(lines)


def _fields(
    fields: Iterator[tuple[str, str, str]],
    values: dict[str, Any],
    shipped: str,
    headings: bool = True,
    prefix: str = "",
) -> list[str]:
    lines, section = [], None
    for name, kind, meaning in fields:
        if (now := name.rpartition(".")[0]) != section:
            section = now
            heading = f"{prefix}{section}" if section else f"{prefix}general"
            lines += ["", f"### {heading}", ""] if headings else []
            if headings or not lines:
                lines += table("field", "type", "meaning", f"in `{shipped}`")
        lines.append(row(f"`{name}`", kind, _escaped(meaning), as_code(values[name])))
    return lines


def configs_page() -> str:
    """The shipped configs: what each is for, and what its first lines say."""
    lines = [
        "# Shipped configs",
        "",
        "Name a config by its name or by its path in the repository: `--config=vit_l` or "
        "`--config=configs/vit_l.py`. Its values are in the file; "
        "[Config fields](fields.md) explains them.",
    ]
    for title, files in (
        ("Training", CONFIGS.glob("*.py")),
        ("Probes", CONFIGS.glob("probes/*")),
        ("Evaluation", CONFIGS.glob("evaluation/*")),
    ):
        lines += ["", f"## {title}"]
        for path in sorted(file for file in files if file.suffix == ".py"):
            text = ast.get_docstring(ast.parse(path.read_text())) or ""
            about, *_ = text.split("\n\n")
            lines += ["", f"### {path.stem}", "", _escaped(about), ""]
            for label, said in _labelled(text.removeprefix(about)):
                is_command = label == "Command"
                lines += ["```bash", said, "```", ""] if is_command else [f"- **{label}**: {said}"]
    return "\n".join(lines)


def _labelled(text: str) -> list[tuple[str, str]]:
    """Parts of a config's first lines: ("Hardware", "two CPU cores.") and so on."""
    parts = re.split(r"^(\w+): +", text.strip(), flags=re.MULTILINE)[1:]
    return [
        # A backslash at the end of a docstring's line has joined it with the next one.
        (
            label,
            re.sub(" {2,}", " \\\n    ", said.strip()) if label == "Command" else _escaped(said),
        )
        for label, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def api_page() -> str:
    """The functions and classes of echojepa_jax.api, from their docstrings."""
    text = ast.get_docstring(ast.parse((PACKAGE / "api.py").read_text())) or ""
    about, _, example = text.partition("\n\n")
    return f"# Python API\n\n{about}\n\n```python\n{example.strip()}\n```\n\n" + "\n\n".join(
        f"::: echojepa_jax.api.{name}"
        for name in (
            *("load_encoder", "Encoder", "load_probe", "Probe", "Prediction"),
            *("worst_and_best", "Case", "save_attention", "map_embeddings", "evaluate"),
        )
    )


def _as_prose(text: str) -> str:
    """A docstring of a program as Markdown: indented lines become a block of commands."""
    paragraphs = []
    for part in text.split("\n\n"):
        if part.startswith("  "):
            code = "\n".join(line.removeprefix("  ") for line in part.splitlines())
            paragraphs.append(f"```bash\n{code}\n```")
        else:
            paragraphs.append(_escaped(part))
    return "\n\n".join(paragraphs)


def _escaped(text: str) -> str:
    """Text on one line, in which Markdown sees nothing but code between backticks."""
    parts = " ".join(text.split()).split("`")
    parts[::2] = [re.sub(r"([*_<>\[\]])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def from_top(name: str) -> str:
    """A Markdown file of the top folder as a page: its links point into docs/ from there."""
    text = (TOP / name).read_text()
    for file, page in ((top, page) for page, top in FROM_TOP.items()):
        text = text.replace(f"]({file})", f"]({page})")
    text = re.sub(r"\[([^]]+)\]\((docs|launch/[^)]+)\)", r"`\1`", text)
    return text.replace("](docs/", "](")


FROM_TOP = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
GENERATED: dict[str, Callable[[], str]] = {
    "reference/configs.md": configs_page,
    "reference/fields.md": fields_page,
    "reference/programs.md": programs_page,
    "reference/api.md": api_page,
}


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages to the site; mkdocs calls it."""
    import sys

    from mkdocs.structure.files import File

    sys.path.insert(0, str(TOP))
    pages = {page: from_top(name) for page, name in FROM_TOP.items()}
    pages |= {page: make() for page, make in GENERATED.items()}
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files
