"""No process is left behind, however a program ends."""

import os
import subprocess
import sys

import pytest

from tests import programs

pytestmark = pytest.mark.slow

PROGRAM = """
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from echojepa_jax.runtime.children import end_with_parent

if __name__ == "__main__":
    pool = ProcessPoolExecutor(2, get_context("spawn"), initializer=end_with_parent)
    print(len(list(pool.map(abs, range(4)))), flush=True)
    os._exit(3)
"""


def test_workers_end_with_their_parent(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, program],
        env=os.environ | {"PYTHONPATH": str(programs.REPOSITORY)},
        capture_output=True,  # which workers hold as well: they must go before this comes back
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (3, "4\n")
