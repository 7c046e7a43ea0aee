"""Runs every program: parses its command line, runs the job, explains mistakes in one sentence."""

import logging
import os
import re
import runpy
import select
import signal
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags

from echojepa_jax.runtime import signals
from echojepa_jax.utils import shipped_configs
from echojepa_jax.utils.errors import UserError, first_line

FLAGS = flags.FLAGS
_BROKEN_PIPE = 128 + signal.SIGPIPE  # as a shell reports a program that this signal has ended


def for_config_flags(argv: list[str]) -> list[str]:
    """The command line in a form that config_flags can parse.

    The field `from` is quoted, because it is a Python keyword. Bytes that are not valid UTF-8, such
    as those of a folder's name in a tuple of sources, are escaped: Python code cannot contain them.
    """
    words = [re.sub(r"^(--?config\.init)\.from\b", r'\1["from"]', word) for word in argv]
    in_tuple = re.compile(r"--?config\.[\w.]+=\s*[(\[]")
    return [
        word.encode("utf-8", "backslashreplace").decode() if in_tuple.match(word) else word
        for word in words
    ]


def with_config_found(argv: list[str]) -> list[str]:
    """The command line with --config replaced by the path of its file.

    Also lets this file import the shipped configs.

    Raises:
      UserError: there is no such config.
    """
    words = list(argv)
    for i, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag not in ("--config", "-config") or not (equals or words[i + 1 :]):
            continue
        name, colon, rest = (value if equals else words[i + 1]).partition(":")
        file = shipped_configs.find(name)
        shipped_configs.let_import(file)
        # The text after a colon is the argument of the config's function.
        words[i : i + (1 if equals else 2)] = [f"{flag}={file}{colon}{rest}"]
    return words


def run(
    job: Callable[[], str], needed: tuple[str, ...], stopped: Callable[[], None] | None = None
) -> None:
    """Runs a program: `job` returns the last line to print, or raises UserError.

    Exit code 0 means that the job is done, 1 a mistake that the user can correct, 130 Ctrl-C.

    Args:
      needed: names of the flags that must be given.
      stopped: for jobs that have nothing to tidy up: SIGTERM calls it to print the last line and
        ends the program at once with code 0; Ctrl-C ends it at once with code 130.
    """
    signals.leave_on_signals(_print_interrupted, stopped)

    def main(argv: list[str]) -> int:
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
        )
        # A message may quote a file name, which may contain bytes that are not UTF-8.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        for name in ("orbax", "jax", "matplotlib", "aiobotocore"):
            logging.getLogger(name).setLevel(logging.WARNING)
        # Python's resource tracker removes shared memory that a program has left. Its warning would
        # come after the program's last line.
        os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
        # Orbax warns through absl of intended things, such as a read-only folder.
        logging.getLogger("absl").setLevel(logging.ERROR)
        try:
            if len(argv) > 1:
                raise UserError(f"unknown arguments: {' '.join(argv[1:])}; see --help")
            missing = [f"--{name}" for name in needed if not FLAGS[name].present]
            if missing:
                raise UserError(f"{' and '.join(missing)} must be given; see --help")
            last_line = job()
            signals.ignore_signals()
            hosts = _hosts()
            if hosts is None or hosts.is_first():
                print(last_line, flush=True)
            if hosts:
                signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C: do not wait for the others
                hosts.finish()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            if hosts := _hosts():
                hosts.fail(str(error))
            return 1
        except BrokenPipeError:
            # The reader of our lines, such as `head`, has ended.
            if _is_unread(sys.stdout.fileno()):
                os._exit(_BROKEN_PIPE)
            raise
        except Exception as error:  # of any kind: hosts that wait for this one must be informed
            if hosts := _hosts():
                hosts.fail_unexpectedly(error)
            raise
        return 0

    try:
        app.run(main, flags_parser=_parse)
    except KeyboardInterrupt:
        signals.end(signals.INTERRUPTED, _print_interrupted)
    except SystemExit:
        # absl exits with code 1 after --help, which is not a mistake.
        if {"--help", "-h", "-help", "--helpfull", "-helpfull", "--helpshort"} & set(sys.argv):
            sys.exit(0)
        raise


def say(line: str) -> None:
    """Prints a line about progress, apart from the results."""
    print(line, file=sys.stderr, flush=True)


def _is_unread(pipe: int) -> bool:
    """Whether the reading end of a pipe is closed, given the writing end."""
    poll = select.poll()
    poll.register(pipe, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _print_interrupted() -> None:
    print(
        "error: interrupted; the same command continues from the last save, or starts again if "
        "nothing was saved",
        file=sys.stderr,
    )


def _hosts() -> Any:
    """The module `parallel.hosts` if this program has imported it, else None."""
    return sys.modules.get("echojepa_jax.parallel.hosts")


def _parse(argv: list[str]) -> list[str]:
    """Parses the command line; a mistake in it ends the program with one sentence."""
    try:
        if "config" in FLAGS:
            argv = with_config_found(argv)
        words = FLAGS(for_config_flags(argv))
        if "config" in FLAGS and FLAGS["config"].present and not isinstance(FLAGS.config, str):
            _ = FLAGS.config.to_dict()  # loads the file, so that its errors are raised here
        return words
    except (flags.Error, UserError) as error:
        # config_flags appends the traceback of a config file.
        flag, _, traceback = str(error).partition(" Error whilst parsing config file:")
        problem = f"{flag} {traceback.splitlines()[-1]}" if traceback else first_line(error)
        if found := re.match(r"flag --(config\.[\w.]+)=.* as a ConfigDict", problem):
            way = f"set its fields, such as --{found[1]}.NAME=VALUE"
            if "config.objective=mae:" in problem:
                way = "to train EchoMAE, use --config=demo_mae or --config=mae_l"
            problem = f"{found[1]} is a section: {way}"
        sys.exit(f"error: {problem}")
    # A config file is a program, so it can raise any error; config_flags adds errors for fields
    # that the config lacks or whose value it cannot parse.
    except Exception as error:
        sys.exit(f"error: {_explain(argv, error)}")


def _explain(argv: list[str], error: Exception) -> str:
    """A sentence about a config that does not load, or about a wrong field on the command line."""
    from echojepa_jax.utils.config_fields import leaves, nearest

    for file in re.findall(r"^--?config=(.*)$", "\n".join(argv), re.MULTILINE)[:1]:
        try:
            config = runpy.run_path(file)["get_config"]()
        except Exception as problem:  # of any kind
            reason = " ".join(str(problem).split())
            return f"{file} cannot be loaded: {type(problem).__name__}: {reason}"
        fields = [name for name, _ in leaves(config)]
        for name in re.findall(r"--?config\.([\w.]+)", " ".join(argv)):
            if not any(field == name or field.startswith(f"{name}.") for field in fields):
                return f"the config has no field {name!r}{nearest(name, fields)}"
    return " ".join(str(error).split())
