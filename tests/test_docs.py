"""The documentation: every command in it can be given, and the ones that can run here do.

This file runs a block of commands (```bash) that has no comment before it, reduced and in reading
order. Other blocks have one of two comments before them, with the reason or the test's file:
`<!-- not run: it needs a TPU -->` or `<!-- run by tests/test_launch.py -->`. Flags, fields and
their values are checked in all blocks.
"""

import ast
import dataclasses
import importlib
import itertools
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from docs import reference
from echojepa_jax.evaluation import config as suite_configs
from echojepa_jax.probes import config as probe_configs
from echojepa_jax.train import config as train_configs
from echojepa_jax.utils import shipped_configs
from tests import programs
from tests.makers.configs import SHRINK
from tests.makers.tables import rows
from tests.programs import REPOSITORY

pytestmark = pytest.mark.slow

PAGES = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md")]
PAGES += sorted((REPOSITORY / "docs").rglob("*.md"))
BLOCK = re.compile(r"(?:^<!-- (.*) -->\n)?^```bash\n((?:.*\n)*?)^```$", re.MULTILINE)


def name_of(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of the documentation. `comment` is that of its block; "" = to be run here."""

    page: str
    comment: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"[:90]

    def program(self) -> str:
        """The module of the program that it runs, such as "embed"; "" for other commands."""
        if self.words[0] == "echojepa":
            return reference.programs()[self.words[1]]
        module = self.words[2] if self.words[1:2] == ("-m",) else ""
        return module.removeprefix("echojepa_jax.") if module.startswith("echojepa_jax.") else ""


def commands() -> list[Command]:
    """All commands, in reading order; then those of the programs' and configs' first lines."""
    found = []
    texts = {name_of(page): page.read_text() for page in PAGES}
    generated = (reference.programs_page(), reference.configs_page())
    texts |= {f"generated {i}": text for i, text in enumerate(generated)}
    for name, page in texts.items():
        for comment, text in BLOCK.findall(page):
            for line in text.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                while words:
                    end = words.index("&&") if "&&" in words else len(words)
                    comment = comment or "not run: generated" * name.startswith("generated")
                    found.append(Command(name, comment, tuple(words[:end])))
                    words = words[end + 1 :]
    return found


COMMANDS = commands()
PROGRAMS = [command for command in COMMANDS if command.program()]


# --- what is written ----------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_of_commands_say_so_and_links_lead_somewhere(page):
    text = page.read_text()
    fences = re.findall(r"^ *```(.*)$", text, re.MULTILINE)
    assert all(fence in ("bash", "python", "json") for fence in fences[::2]), fences
    assert len(BLOCK.findall(text)) == fences.count("bash")
    for command in COMMANDS:
        if command.page == name_of(page) and command.comment:
            comment = re.fullmatch("not run: .+|run by (.+)", command.comment)
            assert comment, command
            if file := comment[1]:
                word = command.program() or next(w for w in command.words if "launch/" in w)
                assert Path(word).name in (REPOSITORY / file).read_text(), command
    # Pages of the site are checked by mkdocs; the files at the top are read in the repository.
    for target in re.findall(r"\]\(([^)#:]+)", text) if page.parent == REPOSITORY else ():
        assert (REPOSITORY / target).exists(), target


def test_the_readme_fits_on_few_screens():
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 200


@pytest.mark.parametrize("command", PROGRAMS, ids=str)
def test_a_program_takes_the_flags_and_the_config_that_are_shown(command):
    """Without a process for each: flags are read from the source, configs are checked here."""
    program, given, config = command.program(), {}, None
    flags = reference.flags_of(program)
    first = 2 if command.words[0] == "echojepa" else 3
    for word in command.words[first:]:
        name, _, value = word.removeprefix("--").partition("=")
        given[name] = value
        if name == "config":
            file = Path(shipped_configs.find(value)).resolve().relative_to(shipped_configs.FOLDER)
            module = ".".join(("configs", *file.with_suffix("").parts))
            config = importlib.import_module(module).get_config()
        elif not name.startswith("config."):
            assert name in flags, word
            assert not flags[name].choices or value in flags[name].choices, word
    assert set(needed_flags(program)) <= set(given)
    if config is None:
        return
    if program == "evaluate":
        config.weights = (given["weights"],)
        suite_configs.check(config)
        return
    of_a_probe = program == "probe"
    if not config.data.sources:
        config.data.sources = ("videos:/data/clips",)
    for name, value in given.items():
        if name.startswith("config."):
            *sections, field = name.removeprefix("config.").split(".")
            part = config
            for section in sections:
                part = part[section]
            is_text = isinstance(part[field], str)
            part[field] = value if is_text else ast.literal_eval(value)
    (probe_configs if of_a_probe else train_configs).check(config, devices=1 if of_a_probe else 8)


def needed_flags(program: str) -> list[str]:
    """Flags without which a program stops: `needed` of its last line."""
    source = (REPOSITORY / "echojepa_jax" / f"{program}.py").read_text()
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    given = [k.value for call in calls for k in call.keywords if k.arg == "needed"]
    return [x for value in given if isinstance(value, ast.Tuple) for x in ast.literal_eval(value)]


def test_other_commands_name_what_is_there():
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for command in COMMANDS:
        for word in command.words:
            if word.startswith("launch/"):
                assert (REPOSITORY / word).is_file(), command
            for extra in re.findall(r"^\.\[(.*)\]$", word):
                assert set(extra.split(",")) <= set(extras["optional-dependencies"]), command
        if "-r" in command.words:
            assert (REPOSITORY / command.words[command.words.index("-r") + 1]).is_file(), command


def test_learning_rates_on_a_command_line_go_with_its_batch():
    text = (REPOSITORY / "README.md").read_text()
    batch = int(re.search(r"global_batch=(\d+)", text)[1])
    peak = float(re.search(r"peak_lr=(\S+)", text)[1])
    assert peak == pytest.approx(5.25e-4 * batch / 3072, rel=0.02)


def test_every_message_that_is_explained_can_appear():
    """Rows of docs/failures.md begin with messages in code; "..." stands for what differs."""
    constants = []
    for path in (REPOSITORY / "echojepa_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                constants.append(node.value.replace("%d", "").replace("%s", ""))
    source = "\n".join(constants)
    text = (REPOSITORY / "docs" / "failures.md").read_text()
    rows = re.findall(r"^\| (`.*?`) \| ", text, re.MULTILINE)
    assert rows
    messages = [message for first in rows for message in re.findall("`(.*?)`", first)]
    lost = [m for m in messages if any(part.strip("() ") not in source for part in m.split("..."))]
    assert lost == []


# --- what is generated --------------------------------------------------------------------------


def test_the_reference_describes_every_config_field_and_flag():
    pages = {name: make() for name, make in reference.GENERATED.items()}
    for name in shipped_configs.names():
        assert f"### {name.rpartition('/')[2]}\n" in pages["reference/configs.md"]
    trained = train_configs.FIELDS, train_configs.IMAGE_FIELDS, train_configs.MAE_FIELDS
    for field in itertools.chain(*trained, probe_configs.FIELDS, suite_configs.FIELDS):
        assert f"| `{field}` | " in pages["reference/fields.md"]
    shown = pages["reference/programs.md"]
    for name, module in reference.programs().items():
        part = shown.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert [f for f in reference.flags_of(module) if f"`--{f}`" not in part] == []


# --- what runs ----------------------------------------------------------------------------------

# Compilations take most of the time: a linear head on the mean token is the quickest there is.
QUICK_PROBE = {
    "encoder.dtype": "float32",
    "data.frames": 4,
    "data.size": 32,
    "data.workers": 0,
    "head.kind": "linear",
    "head.tokens": "mean",
    "optim.epochs": 1,
    "optim.batch": 4,
    "optim.microbatches": 1,
    "eval.bootstrap": 10,
    "log.tensorboard": False,
}
QUICK_TRAINING = SHRINK | {
    "model.size": "vit_tiny",
    "model.heads": 2,
    "model.patch": 8,
    "model.dtype": "float32",
    "predictor.heads": 2,
    "data.workers": 0,
    "data.sample_by": "stride",
    "data.sample_value": 2.0,
    "optim.epochs": 1,
    "optim.warmup_epochs": 0.5,
    "optim.ipe_scale": 1.0,
    "checkpoint.keep_every": 0,
}
REDUCED = {"main": QUICK_TRAINING, "probe": QUICK_PROBE}


def test_commands_without_a_comment_run_one_after_the_other(hearts, tmp_path):
    """From a folder of videos to predictions: train, export, probe, embed, predict."""
    labels = tmp_path / "labels.csv"
    videos = rows(hearts / "FileList.csv")
    videos = [row | {"patient": row["FileName"].rpartition("-")[0]} for row in videos]
    patients = sorted({row["patient"] for row in videos})
    splits = dict(zip(patients, ("train", "train", "val", "test"), strict=True))
    line = f"{hearts}/Videos/{{FileName}}.avi,{{patient}},{{split}},{{EF}}"
    lines = [line.format(**row, split=splits[row["patient"]]) for row in videos]
    labels.write_text("\n".join(["path,patient,split,ef", *lines]))
    places = {
        "/data/clips": str(hearts / "Videos"),
        "/data/labels.csv": str(labels),
        "=runs/": f"={tmp_path}/runs/",
        "=out/": f"={tmp_path}/out/",
        "patients=20": "patients=2",
        f"{tmp_path}/runs/demo": f"{tmp_path}/runs/mine",
    }
    done = []
    for command in PROGRAMS:
        if command.comment:
            continue
        words = list(command.words[2:])
        for there, here in places.items():
            words = [word.replace(there, here) for word in words]
        fields = programs.as_fields(REDUCED.get(command.program(), {}))
        ended = programs.run(command.program(), *words, *fields)
        assert ended.returncode == 0, (command, ended.stderr[-2000:])
        done.append(command.program())
    assert done[:5] == ["main", "export", "probe", "embed", "predict"]
    assert set(done) >= {"export", "convert"}
    table = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
    assert len(table) == 1 + len(videos)
