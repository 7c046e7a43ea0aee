"""Finds the shipped configs by name or path from any folder, and lets other configs import them.

They are the files in configs/ at the top of the repository. An installed package contains them in
echojepa_jax/configs/.
"""

import difflib
import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path

from echojepa_jax.utils.errors import UserError

_PACKAGE = Path(__file__).parents[1]
_INSTALLED = _PACKAGE / "configs"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "configs"


def names() -> list[str]:
    """Names of the shipped configs, such as "demo" and "probes/lvef"."""
    files = (path.relative_to(FOLDER) for path in FOLDER.rglob("*.py"))
    return sorted(path.with_suffix("").as_posix() for path in files)


def find(config: str) -> str:
    """The path of a config's file.

    Args:
      config: a path; or the name of a shipped config, or its path in the repository: "demo",
        "probes/lvef" or just "lvef", "configs/demo.py". An existing file takes precedence.

    Raises:
      UserError: there is no such file and no such shipped config.
    """
    if Path(config).is_file():
        return config
    wanted, shipped = config.removeprefix("configs/").removesuffix(".py"), names()
    found = [name for name in shipped if wanted in (name, name.rpartition("/")[2])]
    if found:
        return str(FOLDER / f"{min(found, key=len)}.py")
    close = difflib.get_close_matches(wanted, shipped, 1)
    hint = f"; the nearest is {close[0]!r}" if close else ""
    raise UserError(
        f"--config={config}: there is no such file or shipped config{hint}; shipped are "
        f"{', '.join(shipped)}"
    )


def let_import(config: str) -> None:
    """Lets a config file in any folder import shipped configs by `from configs import vit_l`.

    `configs` is searched in this order: a folder of that name that contains the file, the shipped
    configs, a folder of that name in the current folder.
    """
    own = [folder for folder in Path(config).absolute().parents if folder.name == "configs"][:1]
    spec = ModuleSpec("configs", None, is_package=True)
    folders = [*own, FOLDER, Path("configs").absolute()]
    spec.submodule_search_locations = [str(folder) for folder in dict.fromkeys(folders)]
    sys.modules["configs"] = module_from_spec(spec)
