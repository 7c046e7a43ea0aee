"""The package as a user gets it: one command, and a wheel that works in any folder."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path, PurePath

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import echojepa_jax
from echojepa_jax.__main__ import PROGRAMS
from echojepa_jax.utils import shipped_configs
from echojepa_jax.utils.errors import UserError
from tests import programs
from tests.makers.configs import SHRINK
from tests.programs import REPOSITORY, run_code


def project():
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def requirements(name):
    """The lines of a requirement file and of those that it names."""
    found = []
    for line in (REPOSITORY / name).read_text().splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("-r "):
            found += requirements(text.removeprefix("-r "))
        elif text:
            found.append(text)
    return found


# --- the command ------------------------------------------------------------------------------


def echojepa(*words):
    return subprocess.run(
        [sys.executable, "-m", "echojepa_jax", *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_command_lists_every_program_with_what_it_says_of_itself():
    modules = {p.stem for p in Path(echojepa_jax.__file__).parent.glob("*.py")}
    assert set(PROGRAMS.values()) == modules - {"__init__", "__main__", "api", "command_line"}
    listed = echojepa()
    assert listed.stdout == echojepa("--help").stdout
    for name in PROGRAMS:
        assert re.search(rf"^  echojepa {name} +[A-Z].*[.?]$", listed.stdout, re.MULTILINE)
    assert echojepa("--version").stdout == f"echojepa_jax {echojepa_jax.__version__}\n"
    wrong = programs.error_of(echojepa("trian"))
    assert wrong.startswith("error: there is no program 'trian'; the nearest is 'train'")
    example = echojepa("predict", "--help")
    assert example.returncode == 0
    assert "predict --probe=runs/lvef --source=dicom:" in example.stdout


def test_the_list_of_programs_waits_for_no_library():
    code = (
        "import sys; before = set(sys.modules); from echojepa_jax.__main__ import overview; "
        "overview(); print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    loaded = set(run_code(code).stdout.split())
    assert "echojepa_jax" in loaded
    assert loaded - {"echojepa_jax"} <= set(sys.stdlib_module_names), loaded


# --- shipped configs --------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["demo", "configs/demo.py", "configs/demo"])
def test_a_shipped_config_is_found_from_any_folder(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped_configs.find(words) == str(REPOSITORY / "configs" / "demo.py")
    # A file of one's own of that name comes first.
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.py").write_text("")
    assert (shipped_configs.find(words) == words) == words.endswith(".py")


def test_probes_are_found_by_their_last_name():
    assert shipped_configs.find("lvef") == shipped_configs.find("probes/lvef")
    last = [name.rpartition("/")[2] for name in shipped_configs.names()]
    assert len(set(last)) == len(last)
    with pytest.raises(UserError, match=r"--config=vit_x: .*; the nearest is 'vit_"):
        shipped_configs.find("vit_x")
    with pytest.raises(UserError, match="there is no such file"):
        shipped_configs.find("/elsewhere/demo.py")


def test_a_citation_names_what_it_must():
    facts = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert (facts["title"], facts["license"]) == ("echojepa_jax", project()["project"]["license"])
    for work in (facts, *facts["references"]):
        assert work["title"]
        assert all("name" in author or "family-names" in author for author in work["authors"])


# --- the wheel --------------------------------------------------------------------------------


def test_extras_are_the_requirement_files():
    extras = project()["project"]["optional-dependencies"]
    dev = {name for name in extras["dev"] if not name.startswith("echojepa_jax[")}
    need = set(requirements("requirements.txt"))
    assert set(extras["test"]) == set(requirements("requirements-test.txt")) - need
    wanted = set(requirements("requirements-dev.txt")) - need
    assert dev | set(extras["beam"]) | set(extras["test"]) == wanted
    assert {"tpu", "cuda13", "torch", "buckets", "dev"} <= set(extras)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the checkout, built in a copy of it, which a build would leave files in."""
    copy, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("wheel")
    for name in ("echojepa_jax", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, copy / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements.txt"):
        shutil.copy(REPOSITORY / name, copy)
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    done = run_code(code, cwd=copy)
    assert done.returncode == 0, done.stderr[-2000:]
    return next(out.glob("*.whl"))


def metadata_of(wheel):
    """What the wheel says of itself."""
    with zipfile.ZipFile(wheel) as archive:
        facts = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return archive.read(facts).decode()


def requires(wheel):
    """What it needs without an extra."""
    return re.findall(r"^Requires-Dist: ([^;\n]+)$", metadata_of(wheel), re.MULTILINE)


@pytest.mark.slow
def test_a_wheel_holds_every_file_and_needs_what_the_requirements_say(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package, configs = REPOSITORY / "echojepa_jax", REPOSITORY / "configs"
    files = [f for f in package.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    wanted = {f.relative_to(REPOSITORY).as_posix() for f in files}
    wanted |= {f"echojepa_jax/configs/{name}.py" for name in shipped_configs.names()}
    assert len(shipped_configs.names()) == len(list(configs.rglob("*.py")))
    assert {name for name in names if ".dist-info/" not in name} == wanted
    assert f"\nVersion: {echojepa_jax.__version__}\n" in metadata_of(wheel)
    bare = [Requirement(text).name for text in requires(wheel)]
    listed = [Requirement(text).name for text in requirements("requirements.txt")]
    assert sorted(bare) == sorted(listed)


def with_dependencies(wanted):
    """The names of installed packages that these requirements ask for, and of all they need."""
    found, todo = set(), [Requirement(text) for text in wanted]
    while todo:
        asked = todo.pop()
        for extra in {"", *asked.extras}:
            if (key := (canonicalize_name(asked.name), extra)) in found:
                continue
            found.add(key)
            needed = map(Requirement, importlib.metadata.requires(asked.name) or ())
            todo += [x for x in needed if not x.marker or x.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


def link_packages(names, folder):
    """Puts installed packages into `folder`, as links to their files and to folders of their own.

    Downloading and unpacking them again would take minutes, and show no more.
    """
    mine, others = set(), set()
    for package in importlib.metadata.distributions():
        is_mine = canonicalize_name(package.name) in names
        for file in package.files or ():
            path = PurePath(file)
            if path.parts[0] != "..":  # a script
                mine |= {(path, package.locate_file(""))} if is_mine else set()
                others |= set() if is_mine else set(path.parents)
    for path, root in mine:
        whole = next(x for x in [*reversed(path.parents), path] if x not in others)
        link = folder / whole
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(root / whole)


@pytest.mark.slow
def test_a_wheel_trains_in_an_empty_environment_elsewhere(wheel, tmp_path):
    """By a config's name, and by a config of one's own that starts from a shipped one.

    The environment holds what the wheel says that it needs, and nothing else.
    """
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    needed = with_dependencies(requires(wheel))
    assert "jaxlib" in needed
    assert "pytest" not in needed
    link_packages(needed, tmp_path / "venv" / "lib" / version / "site-packages")
    install = ["install", "--quiet", "--no-deps", "--no-index", "--no-compile", wheel]
    subprocess.run(
        [sys.executable, "-m", "pip", f"--python={python}", *install],
        check=True, capture_output=True,
    )  # fmt: skip
    assert subprocess.run([python, "-c", "import pytest"], capture_output=True).returncode == 1
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["XLA_FLAGS"] = programs.xla_flags()

    def run(*words):
        done = subprocess.run(
            [tmp_path / "venv" / "bin" / "echojepa", *words],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
            timeout=programs.TIMEOUT,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip().splitlines()[-1]

    # An environment may lie in a repository of other code, whose commit says nothing of this one.
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    commit = ["commit", "--quiet", "--allow-empty", "--message=mine"]
    somebody = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
    subprocess.run(["git", "-C", tmp_path, *somebody, *commit], check=True)
    # With a worker process, which must find the program again.
    fields = SHRINK | {"optim.epochs": 1, "data.workers": 1}
    trained = run("train", "--config=demo", "--workdir=run", *programs.as_fields(fields))
    assert trained.startswith("complete: step 3 of 3. ")
    facts = json.loads((elsewhere / "run" / "manifest.json").read_text())
    assert (facts["version"], facts["commit"]) == (echojepa_jax.__version__, "unknown")
    lines = ["from configs import demo", "", "def get_config():", "    config = demo.get_config()"]
    lines += [f"    config.{name} = {value!r}" for name, value in fields.items()]
    (elsewhere / "mine.py").write_text("\n".join([*lines, "    return config", ""]))
    assert run("train", "--config=mine.py", "--workdir=run").startswith("run is complete")
