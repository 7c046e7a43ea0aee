"""What a run counts and warns of, over restarts as well."""

import json
import logging

import numpy as np
import pytest

from echojepa_jax.data.sample import Sample
from echojepa_jax.train.alarms import standing_alarms
from echojepa_jax.train.monitor import Watch
from echojepa_jax.train.state import make_schedules
from echojepa_jax.utils.metrics_writer import MetricsWriter, read_lines


@pytest.fixture
def start(tiny, tmp_path):
    """Begins to watch a run of 100 steps after a step, as a process that is started again does."""
    config = tiny(log__every=10, data__max_bad_share=1.0)
    samples = [Sample(f"v{i}", f"/v{i}.avi", "videos:/") for i in range(8)]

    def make(first_step, last_step=100):
        writer = MetricsWriter(tmp_path, first_step, tensorboard=False)
        schedules = make_schedules(config)
        return Watch(config, tmp_path, writer, samples, schedules, first_step, last_step)

    return make


def health_of(rank):
    return named(effective_rank=rank, cosine_similarity=0.5, relative_error=0.7)


def named(**values):
    return {f"health/{name}": value for name, value in values.items()}


def clips(padded=0, errors=()):
    return {
        "sample_ids": np.arange(8),
        "padded": np.arange(8) < padded,
        "error": np.array(["broken" if i in errors else "" for i in range(8)]),
    }


def metrics(skipped=0, stop=False):
    return {
        "loss": np.float32(0.5),
        "loss_by_mask": np.float32([0.4, 0.6]),
        "grad_norm": np.float32(1.0),
        "skipped": skipped,
        "updates": 1,
        "stop": stop,
    }


def test_f19_the_rank_is_judged_against_its_best_even_after_a_restart(start, caplog):
    watch = start(0)
    watch.measured(0, health_of(60.0))  # at initialisation: not what counts as best
    watch.measured(20, health_of(20.0))
    watch.measured(30, health_of(15.0))
    assert caplog.text == ""
    watch.measured(40, health_of(9.0))
    assert "at step 40: effective rank 9.0 is less than half of its maximum, 20.0" in caplog.text
    caplog.clear()
    again = start(30)  # what was written after step 30 is forgotten
    again.measured(40, health_of(9.0))
    assert "less than half of its maximum, 20.0" in caplog.text


def test_f19_a_sudden_fall_of_the_loss_is_reported_once_with_the_way_back(start, tmp_path, caplog):
    """As the original's authors met it: 0.62, and from one epoch to the next 0.45."""
    rng = np.random.default_rng(0)
    watch = start(0, last_step=1000)
    for line in range(60):
        # A slow decline and noise are no fall.
        loss = 0.62 - 0.0005 * line + 0.01 * rng.standard_normal()
        # Nor is a single line.
        loss = loss if line < 45 and line != 40 else loss - 0.17
        if line == 46:
            watch.flush()
            watch = start(460, last_step=1000)  # it goes on after a restart
        watch.step(10 * (line + 1), metrics() | {"loss": np.float32(loss)}, clips(), 0.0)
    watch.flush()
    (warning,) = [r.message for r in caplog.records if "fell suddenly" in r.message]
    assert "from a checkpoint before step 440 with a new seed" in warning
    assert f"--config.init.from={tmp_path} --config.init.step=STEP --config.seed=1" in warning
    (alarm,) = standing_alarms(read_lines(tmp_path / "metrics.jsonl"), 1000)  # of the report
    assert alarm.startswith("the loss fell suddenly to 0.4")
    assert alarm.endswith("(step 470)")


def test_f19_the_log_and_the_report_judge_the_same_lines(start, tmp_path, caplog):
    """Step 10 of 100 is the last that is not judged; an alarm ends when its measure does."""
    watch = start(0)
    bad = named(effective_rank=20.0, cosine_similarity=0.99, relative_error=0.7)
    for step, now in ((10, bad), (20, bad), (30, health_of(9.0))):
        watch.measured(step, now)
    logged = [record.message for record in caplog.records]
    assert [message.partition(": ")[0] for message in logged] == [
        "health at step 20", "health at step 30",
    ]  # fmt: skip
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert standing_alarms(lines[:1], 100) == []
    for end in (2, 3):
        (alarm,) = standing_alarms(lines[:end], 100)
        assert logged[end - 2].endswith(alarm)


def test_a_run_continues_after_a_line_whose_loss_was_not_finite(start, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 10, "time": 0, "loss": null}\n')
    start(10)


class UnderWay:
    """A number of a step that the device has not made yet."""

    ready = False

    def __array__(self, *_, **__):
        assert self.ready, "the host waits for a step that is under way"
        return np.float32(0.5)


def test_no_step_is_waited_for_before_the_next_one_is_started(start, tmp_path):
    watch, before = start(0), UnderWay()
    for step in range(1, 12):
        before.ready, now = True, UnderWay()
        watch.step(step, metrics() | {"loss": now}, clips(), 0.0)
        before = now
    assert read_lines(tmp_path / "metrics.jsonl")[-1]["loss"] == 0.5


def test_counts_go_on_after_a_restart(start, tmp_path):
    watch = start(0)
    for step in range(1, 11):
        watch.step(step, metrics(skipped=step in (3, 7)), clips(padded=2, errors=(1,)), 0.0)
    watch.flush()
    line = read_lines(tmp_path / "metrics.jsonl")[-1]
    assert (line["skipped_steps"], line["padded_share"], line["quarantined"]) == (2, 0.25, 1)
    again = start(10)
    for step in range(11, 21):
        again.step(step, metrics(skipped=step == 12), clips(errors=(1, 5)), 0.0)
    again.flush()
    line = read_lines(tmp_path / "metrics.jsonl")[-1]
    assert (line["skipped_steps"], line["padded_share"], line["quarantined"]) == (3, 0.125, 2)
    skipped = [json.loads(x) for x in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in skipped] == [3, 7, 12]
    assert skipped[0]["samples"] == [f"v{i}" for i in range(8)]


def test_the_progress_line_tells_speed_wait_and_time_left(start, caplog):
    caplog.set_level(logging.INFO)
    watch = start(0)
    for step in range(1, 21):
        watch.step(step, metrics(), clips(), 0.0)
    watch.flush()
    first, second = (r.message for r in caplog.records if r.message.startswith("step "))
    for line, step in ((first, 10), (second, 20)):
        assert line.startswith(f"step {step}/100  loss 0.5000  ")
        assert "clips/s  data wait 0%  " in line
        assert line.endswith(" left")


def test_a_step_tells_whether_a_host_was_asked_to_stop_in_the_one_before(start):
    watch = start(0)
    assert not watch.step(1, metrics(stop=True), clips(), 0.0)
    assert watch.step(2, metrics(), clips(), 0.0)
    assert not watch.step(3, metrics(), clips(), 0.0)
