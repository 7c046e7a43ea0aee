"""Cycles of TPU kernels by their schedules: loops, and parts that run at some steps only."""

import re
import subprocess
import sys

import pytest

from echojepa_jax.costs import bundles
from tests.programs import REPOSITORY

KERNELS = """
import sys
from echojepa_jax.costs import ahead
ahead.prepare_environment(schedules=sys.argv[1])

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

def kernel(trips, inner, x, out):
    def add(i, total):
        return total + jnp.exp(x[pl.ds(i * 8, 8)])
    def outer(i, total):
        return jax.lax.fori_loop(0, inner, lambda k, a: a * 1.5 + x[pl.ds(k * 8, 8)], total) + 1
    total = jax.lax.fori_loop(0, trips, add, jnp.zeros((8, 128)))
    total = jax.lax.fori_loop(0, 5, outer, total)
    out[...] = total
    @pl.when(pl.program_id(1) == 0)
    def _():
        out[...] = jnp.sin(total)

def call(name, grid, trips, inner):
    block = pl.BlockSpec((512, 128), lambda i, j: (i, j))
    return pl.pallas_call(
        lambda x, out: kernel(trips, inner, x, out),
        grid=grid,
        in_specs=[block],
        out_specs=pl.BlockSpec((8, 128), lambda i, j: (i, j)),
        out_shape=jax.ShapeDtypeStruct((8 * grid[0], 128 * grid[1]), jnp.float32),
        name=name,
    )

def everything(x):
    return (
        call("plain", (3, 4), 32, 7)(x),
        call("longer", (3, 4), 64, 7)(x),
        call("deeper", (3, 4), 32, 14)(x),
        call("wider", (6, 4), 32, 7)(x),
        call("seldom", (3, 8), 32, 7)(x),
    )

device = ahead.tpu_devices("v5e:2x2")[0]
x = jax.ShapeDtypeStruct(
    (6 * 512, 8 * 128), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(device)
)
jax.jit(everything).lower(x).compile()
"""


@pytest.fixture(scope="module")
def schedules(tmp_path_factory):
    """Of kernels with a grid, loops in it, and a part for the first column of the grid."""
    folder = tmp_path_factory.mktemp("schedules")
    subprocess.run([sys.executable, "-c", KERNELS, str(folder)], cwd=REPOSITORY, check=True)
    found = bundles.schedules(folder).items()
    return {name.partition(".")[0]: path.read_text() for name, path in found}


@pytest.fixture(scope="module")
def cycles(schedules):
    return {name: bundles.cycles(text, delay=4) for name, text in schedules.items()}


def body(text, depth):
    """Bundles of the first loop at that depth without loops in it, from its head to its jump back.

    Four bundles more run before the jump has its effect.
    """
    loop = rf"0x(\w+) LB: {'>' * depth} (?s:.)*?0x(\w+)   : >+ [^\n]*= sbr.rel"
    head, jump = re.search(loop, text).groups()
    return int(jump, 16) - int(head, 16) + 1 + 4


@pytest.mark.slow
def test_a_loop_counts_as_often_as_it_runs(schedules, cycles):
    # At every of the grid's 12 steps.
    assert cycles["longer"] - cycles["plain"] == 12 * 32 * body(schedules["plain"], 2)
    assert cycles["deeper"] - cycles["plain"] == 12 * 5 * 7 * body(schedules["plain"], 3)


@pytest.mark.slow
def test_steps_of_the_grid_count_and_what_runs_at_some_of_them(cycles):
    # Twice the steps, and the sine at as many of them or twice as many.
    assert cycles["wider"] == pytest.approx(2 * cycles["plain"], rel=0.01)
    sine = (cycles["wider"] - cycles["seldom"]) / 3
    assert 50 < sine < 200


SCHEDULE = """
     0   :  { %s1_s9 = smov.u32 0 /* copy */ }
   0x1 LB: > { %s2_s9 = sphi %s1_s9, %s3_s9 /* phi copy */ } /* Start region 3 */
   0x2   : > { %p1_p0 = scmp.ne.s32.totalorder %s2_s9, 2  ;;  %s3_s9 = sadd.s32 1, %s2_s9 }
   0x3   : > { %11 = sbr.rel (%p1_p0) target = $region7  ;;  %s8_s1 = smov.u32 (%p1_p0, %s3_s9), 4 }
   0x4   : > { %p2_p1 = scmp.ge.s32.totalorder %s3_s9, 10 /* loop exit test */ }
   0x5   : > { %10 = sst [smem:[#a_spill]] %s2_s9 }
   0x6   : > {}
   0x7   : > {}
   0x8   : > { %v1_v1 = vadd.f32 1.0, %v0_v0 }
   0x9   : > { %shalt.err (%p9)  /* BoundsCheck
of several lines */ }
   0xa PF: > { %s7_s2 = sld [smem:[#allocation4 + %s2_s9]] } /* Start/End empty region 7 */
   0xb   : > { %p5_p3 = scmp.eq.s32.totalorder %s7_s2, 0  ;;  %p6_p4 = pneg %p5_p3 }
   0xc   : > { %12 = sbr.rel (%p6_p4) target = $region9 }
   0xd   : > {}
   0xe   : > {}
   0xf   : > {}
  0x10   : > {}
  0x11   : > {}
  0x12 PF: > { %13 = sbr.rel (!%p2_p1) target = $region3 } /* Start/End empty region 9 */
  0x13   : > {}
  0x14   : > {}
  0x15   : > {}
  0x16   : > {}
  0x17   :  {} /* End region 3 */
"""


def test_branches_on_counters_are_followed_and_those_on_data_are_not():
    # Ten runs of 22 bundles, two of which are skipped in all but one; and the first and the last.
    assert bundles.cycles(SCHEDULE, delay=4) == 2 + 10 * 22 - 9 * 2


def test_files_of_schedules(tmp_path):
    for name in (
        "17-splash_mha.2-00-schedule-analysis_final_bundles.txt",
        "17-splash_mha.2-01-final_bundles.txt",
        "12-splash_mha.2-01-final_bundles.txt",
        "17-TLP-hlo.txt",
    ):
        (tmp_path / name).touch()
    newest = tmp_path / "17-splash_mha.2-01-final_bundles.txt"
    assert bundles.schedules(tmp_path) == {"splash_mha.2": newest}
