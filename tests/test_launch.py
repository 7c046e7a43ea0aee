"""Launch scripts: no lint, and dry runs that print what they would do."""

import ctypes
import os
import re
import shlex
import shutil
import subprocess
import tomllib

import pytest

from tests.programs import REPOSITORY

pytestmark = pytest.mark.slow

PR_SET_CHILD_SUBREAPER = 36  # of prctl (sys/prctl.h)
SCRIPTS = ["local.sh", "tpu_vm.sh", "gke_xpk.sh", "slurm.sbatch"]
TRAINING = ["--config=configs/vit_l.py", "--workdir=gs://bucket/run"]


def run(*command, **environment):
    """Runs a command in the repository, to its end."""
    return subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | environment, text=True, capture_output=True,
        timeout=60,
    )  # fmt: skip


def launch(script, *arguments, **environment):
    return run("bash", f"launch/{script}", *arguments, **environment)


def write_program(path, text):
    """Writes a program for bash; returns a search path that has its folder first."""
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
    return f"{path.parent}:{os.environ['PATH']}"


def test_what_an_image_takes_is_there_and_is_not_left_out():
    text = (REPOSITORY / "launch" / "Dockerfile").read_text()
    lines = [line.split() for line in text.splitlines() if line.startswith("COPY ")]
    taken = {name for _, *names, _ in lines for name in names}
    kept = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert "echojepa_jax" in taken
    for name in taken:
        assert (REPOSITORY / name).exists()
        assert f"!{name}" in kept


def test_accelerators_come_with_the_extras_of_the_package():
    """Which say what goes with what: a bare jax[tpu] lacks the rest of the package."""
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    named = {}
    for file in (REPOSITORY / "launch").iterdir():
        text = file.read_text()
        assert "jax[" not in text, file.name
        lists = re.findall(r"\.\[([\w,]+)\]", text)
        named[file.name] = {extra for words in lists for extra in words.split(",")}
    assert set().union(*named.values()) <= set(extras["optional-dependencies"])
    assert named["Dockerfile"] == {"tpu", "cuda13", "buckets"}
    assert named["tpu_vm.sh"] == {"tpu", "buckets"}
    assert named["slurm.sbatch"] == {"cuda12", "cuda13"}
    assert named["finetune_colab.ipynb"] == {"tpu", "cuda12", "cuda13"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_finds_nothing(script):
    done = run("shellcheck", f"launch/{script}")
    assert done.returncode == 0, done.stdout


def test_a_tpu_slice_from_creation_to_deletion():
    done = launch(
        "tpu_vm.sh",
        *("--dry_run", "--name=echo", "--type=v5litepod-64", "--spot", *TRAINING),
        "--config.data.sources=('dicom:/data/a b',)",
    )
    assert done.returncode == 0, done.stderr
    commands = done.stdout.splitlines()
    kinds = ["queued-resources create", "queued-resources describe", "git archive", "tpu-vm scp"]
    kinds += ["tpu-vm ssh", "tpu-vm ssh", "mkdir -p logs/echo", "tpu-vm scp"]
    kinds += ["queued-resources delete"]
    assert len(commands) == len(kinds)
    for command, kind in zip(commands, kinds, strict=True):
        assert kind in command
    assert "--spot" in commands[0]
    assert all("--worker=all" in command for command in commands if " ssh " in command)
    # Quotes and spaces survive two shells: what the far one would run has the words given here.
    script = f"set -- {commands[5]}\nprintf '%s' \"${{@: -1}}\""
    far = run("bash", "-c", script).stdout
    words = far.partition("-m echojepa_jax.main")[2].partition("; echo")[0]
    said = run("bash", "-c", f"printf '%s\\n' {words}").stdout.splitlines()
    assert said == ["--hosts=-1", *TRAINING, "--config.data.sources=('dicom:/data/a b',)"]


@pytest.mark.parametrize("code", [0, 3])
def test_a_line_that_breaks_does_not_end_training_and_is_taken_up_again(tmp_path, code):
    done = launch("tpu_vm.sh", "--dry_run", "--name=e", "--type=v4-8", "--do=run", *TRAINING)
    script = f"set -- {done.stdout}\nprintf '%s' \"${{@: -1}}\""
    far = run("bash", "-c", script).stdout
    (tmp_path / "code").mkdir()
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "activate").write_text(f"PATH={tmp_path}/venv/bin:$PATH\n")
    write_program(
        tmp_path / "venv" / "bin" / "python",
        f'echo "start $@"\nuntil [ -e {tmp_path}/go ]; do sleep 0.1; done\necho end\nexit {code}',
    )

    # Here as on a machine with an init, what has lost its parent is not left a zombie.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)

    def line():
        """To the slice, as ssh opens it."""
        return subprocess.Popen(
            ["bash", "-c", far.removeprefix("--command=")],
            env=os.environ | {"HOME": str(tmp_path)}, cwd=tmp_path, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    first = line()
    assert first.stdout.readline() == "--- started\n"
    assert first.stdout.readline().startswith("start -m echojepa_jax.main --hosts=-1 --config=")
    first.kill()
    first.wait(timeout=60)
    training = int((tmp_path / "train.pid").read_text())
    second = line()
    try:
        assert second.stdout.readline() == "training is still running: following it\n"
    finally:
        (tmp_path / "go").touch()
        os.waitpid(training, 0)
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0)
    out, _ = second.communicate(timeout=60)
    assert out.splitlines()[-1] == "end"
    assert second.returncode == code
    assert (tmp_path / "train.log").read_text().count("start -m") == 1
    third = line()
    assert third.communicate(timeout=60)[0].count("start -m") == 2, "and then one that starts again"


@pytest.mark.parametrize(
    ("end", "code", "given_back"),
    [
        ("complete: step 9 of 9. The report is gs://bucket/run/report.html", 0, True),
        (
            "stopped by a signal; saved at step 5 of 9. The same command continues the run.\nbye",
            1,
            False,
        ),
    ],
)
def test_a_slice_is_given_back_when_training_is_complete(tmp_path, end, code, given_back):
    """Not where a notice has stopped it; logs are long, and hold earlier starts."""
    log = "--- started\nstopped by a signal; saved at step 1\n--- started\n"
    log += "step\n" * 100_000 + end + "\n"
    (tmp_path / "log").write_text(log)
    asked = tmp_path / "asked"
    path = write_program(
        tmp_path / "gcloud",
        f'echo "$@" >> {asked}\n[[ $4 == scp ]] && cp {tmp_path}/log "$6/train.log"\nexit 0',
    )
    name = f"test-{tmp_path.name}"
    try:
        done = launch(
            "tpu_vm.sh", f"--name={name}", "--type=v4-8", "--do=run,logs,delete", *TRAINING,
            PATH=path,
        )  # fmt: skip
    finally:
        shutil.rmtree(REPOSITORY / "logs" / name, ignore_errors=True)
    assert done.returncode == code, done.stderr
    assert ("queued-resources delete" in asked.read_text()) == given_back


def test_a_part_of_the_steps():
    done = launch("tpu_vm.sh", "--dry_run", "--name=e", "--type=v4-8", "--do=delete")
    assert done.stdout.splitlines() == [
        "gcloud compute tpus queued-resources delete e --zone=us-west4-a --force --quiet "
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--name=e"], "--name and --type must be given"),
        (["--name=e", "--type=v4-8", "--do=fly"], "--do=fly is not a step"),
        (["--name=e", "--type=v4-8", "--workdir=runs/x"], "--workdir must be in a bucket"),
    ],
)
def test_mistakes_are_a_sentence(arguments, sentence):
    done = launch("tpu_vm.sh", "--dry_run", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {sentence}")
    assert not done.stdout


def test_gke_slurm_and_local():
    common = ["--dry_run", "--name=e", "--cluster=c", "--type=v5litepod-64", "--image=i"]
    done = launch("gke_xpk.sh", *common, *TRAINING)
    assert done.stdout.startswith("xpk workload create --workload=e --cluster=c --tpu-type=v5lite")
    assert "echojepa_jax.main" in done.stdout
    done = launch("gke_xpk.sh", *common, "--workdir=runs/x")
    assert "error: --workdir must be in a bucket" in done.stderr
    assert "srun" in launch("slurm.sbatch", "--dry_run", *TRAINING).stdout
    assert "main --config" in launch("local.sh", "--dry_run", *TRAINING).stdout
    done = launch("slurm.sbatch", *TRAINING, DRY_RUN="1")
    assert done.stdout.split()[:2] == ["srun", "--kill-on-bad-exit=1"]
    done = launch("local.sh", *TRAINING, DRY_RUN="1", HOSTS="2", PORT="1234")
    assert [line.split()[-3:] for line in sorted(done.stdout.splitlines())] == [
        ["--hosts=2", f"--host={host}", "--coordinator=127.0.0.1:1234"] for host in range(2)
    ]


FAILED = "srun: error: n0: task 0: Exited with exit code 1"


@pytest.mark.parametrize(
    ("code", "said", "restarts", "again"),
    [
        (0, "complete", 0, False),
        (0, "stopped by a signal; saved", 20, True),
        (0, "stopped by a signal; nothing had to be saved", 0, True),
        (0, "stopped by a signal; nothing had to be saved", 20, False),
        (75, "", 0, True),
        # One task's mistake, for which srun ends the others.
        (143, "srun: error: n1: tasks 0-2: Exited with exit code 1", 0, False),
        # A task that was killed, and another that stumbled over that.
        (137, f"srun: error: n1: task 1: Killed\n{FAILED}", 0, True),
        (143, f"{FAILED}\nstopped by a signal; saved", 0, False),
        (137, "", 3, True),
        (137, "", 20, False),
        (1, "error: no such file", 0, False),
    ],
)
def test_a_job_that_has_lost_a_process_is_queued_again(tmp_path, code, said, restarts, again):
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    write_program(tmp_path / "srun", f"echo '{said}' >&2; exit {code}")
    path = write_program(tmp_path / "scontrol", "echo asked: $@")
    done = launch(
        "slurm.sbatch", *TRAINING, PATH=path, SLURM_JOB_ID="7",
        SLURM_SUBMIT_DIR=str(tmp_path), SLURM_RESTART_COUNT=str(restarts),
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert ("asked: requeue 7" in done.stdout) == again


def test_a_pod_that_is_taken_away_saves_and_is_started_again(tmp_path):
    path = write_program(
        tmp_path / "python",
        "trap 'sleep 1; echo \"stopped by a signal; saved\"; exit 0' TERM\n"
        'echo started "$@"\nwhile true; do sleep 0.1; done',
    )
    flags = ["--dry_run", "--name=e", "--cluster=c", "--type=v5litepod-64", "--image=i"]
    words = shlex.split(launch("gke_xpk.sh", *flags, *TRAINING).stdout)
    command = next(w for w in words if w.startswith("--command=")).removeprefix("--command=")
    # As XPK runs it: in a subshell, which alone is sent the signal.
    wrapper = f'({command}) & pid=$!; sleep 1; kill -TERM $pid; wait $pid; echo "code $?"'
    done = run("bash", "-c", wrapper, PATH=path)
    first, *rest = done.stdout.splitlines()
    assert first.startswith("started -m echojepa_jax.main --hosts=0 --config=configs/vit_l.py")
    assert rest == ["stopped by a signal; saved", "code 143"]

    for code, told in ((75, 143), (1, 1), (0, 0)):  # another host was lost; a mistake; the end
        path = write_program(tmp_path / "python", f"exit {code}")
        assert run("bash", "-c", command, PATH=path).returncode == told


@pytest.mark.parametrize("script", SCRIPTS)
def test_they_explain_themselves(script):
    done = launch(script, "--help")
    assert done.returncode == 0, done.stderr
    assert "Trains on" in done.stdout
    assert "--config=configs/" in done.stdout
    assert "set -euo" not in done.stdout


def test_a_signal_to_the_script_reaches_every_host(tmp_path):
    path = write_program(
        tmp_path / "python",
        "trap 'echo saved; exit 0' TERM\necho ready\nwhile true; do sleep 0.1; done",
    )
    for hosts in (1, 2):
        process = subprocess.Popen(
            ["bash", "launch/local.sh", *TRAINING],
            cwd=REPOSITORY,
            env=os.environ | {"PATH": path, "HOSTS": str(hosts)},
            text=True,
            stdout=subprocess.PIPE,
        )
        assert [process.stdout.readline() for _ in range(hosts)] == ["ready\n"] * hosts
        process.terminate()
        out, _ = process.communicate(timeout=30)
        assert (process.returncode, out) == (0, "saved\n" * hosts)
