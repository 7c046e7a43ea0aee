"""The input pipeline on small real files: order, division of work, failures."""

import dataclasses
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import cv2
import numpy as np
import pytest

from echojepa_jax.data.clips import pipeline, workers
from echojepa_jax.data.clips.sampling import ClipSpec
from echojepa_jax.data.sample import Sample
from echojepa_jax.masking.multiblock import MaskSpec
from echojepa_jax.utils.errors import UserError

CLIP = ClipSpec(frames=4, size=32, by="stride", value=2)
GRID = (2, 4, 4)
MASKS = (MaskSpec(2, 0.2, 6, 6), MaskSpec(1, 0.5, 8, 8, keep="raster"))
VIDEOS, FRAMES = 10, 12


def write_video(path: Path, level: int) -> None:
    """A flat clip whose grey level, 20 x level + frame number, identifies video and frame."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30, (48, 40))
    for k in range(FRAMES):
        writer.write(np.full((40, 48, 3), 20 * level + k, np.uint8))
    writer.release()


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("videos")
    for i in range(VIDEOS):
        write_video(folder / f"v{i}.avi", i)
    sources = ["videos:a"] * 4 + ["videos:b"] * (VIDEOS - 4)
    facts = {"frames": FRAMES, "fps": 30.0, "height": 40, "width": 48}
    return [
        Sample(f"v{i}", str(folder / f"v{i}.avi"), source, **facts)
        for i, source in enumerate(sources)
    ]


def as_made(samples, **options) -> Iterator[pipeline.Batch]:
    defaults = {"clip": CLIP, "masks": MASKS, "grid": GRID, "seed": 5, "global_batch": 4}
    steps = {"first_step": 0, "last_step": 6}
    return pipeline.training_batches(samples, **defaults | steps | options)


def training(samples, **options) -> list[pipeline.Batch]:
    return list(as_made(samples, **options))


def leaves(batch: pipeline.Batch) -> dict[str, np.ndarray]:
    found = {}
    for key, value in batch.items():
        if isinstance(value, dict):
            found |= {f"{key}/{name}": leaf for name, leaf in leaves(value).items()}
        else:
            parts = value if isinstance(value, tuple) else (value,)
            found |= {f"{key}{i}": leaf for i, leaf in enumerate(parts)}
    return found


def assert_equal(batches, others) -> None:
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        batch, other = leaves(batch), leaves(other)
        assert batch.keys() == other.keys()
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key], err_msg=key)


def order_of(batches) -> list[int]:
    return np.concatenate([batch["sample_ids"] for batch in batches]).tolist()


def test_a_batch_has_the_documented_leaves_and_the_pixels_of_its_samples(samples):
    for batch in training(samples):
        shapes = {key: (leaf.shape, leaf.dtype.kind) for key, leaf in leaves(batch).items()}
        assert shapes == {
            "clips0": ((4, 4, 32, 32, 3), "u"),
            "context_ids0": ((4, 6), "i"),
            "context_ids1": ((4, 8), "i"),
            "target_ids0": ((4, 6), "i"),
            "target_ids1": ((4, 8), "i"),
            "sample_ids0": ((4,), "i"),
            "valid0": ((4,), "b"),
            "padded0": ((4,), "i"),
            "error0": ((4,), "U"),
        }
        assert batch["valid"].all()
        assert batch["sample_ids"].dtype == np.int64
        for row, clip in zip(batch["sample_ids"], batch["clips"], strict=True):
            levels = clip[:, 16, 16, 0].astype(int) - 20 * row
            # JPEG moves grey levels a little; videos are 20 apart.
            assert np.abs(np.diff(levels) - 2).max() <= 1
            assert levels.min() >= -3
            assert levels.max() <= FRAMES + 2


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_workers_do_not_change_the_content(samples, count):
    assert_equal(training(samples, workers=count), training(samples))


STILLS = 7


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> pipeline.Images:
    """Six flat pictures in every batch of four videos; the grey level is 30 x number."""
    folder = tmp_path_factory.mktemp("stills")
    stills = []
    for i in range(STILLS):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((40, 48), 30 * i, np.uint8))
        sample = Sample(str(i), str(folder / f"{i}.png"), "videos:c", frames=1, fps=1.0)
        stills.append(dataclasses.replace(sample, height=40, width=48, grey=True))
    clip = ClipSpec(frames=1, size=48, by="stride", value=1)
    return pipeline.Images(stills, clip, MaskSpec(3, 0.2, 5, 7), (1, 6, 6), 6)


def test_images_come_beside_the_videos_and_do_not_change_them(samples, images):
    both = training(samples, images=images)
    assert_equal([{k: v for k, v in b.items() if k != "images"} for b in both], training(samples))
    found = [batch["images"] for batch in both]
    shapes = {key: leaf.shape for key, leaf in leaves(found[0]).items()}
    assert shapes["clips0"] == (6, 1, 48, 48, 1)
    assert shapes["context_ids0"] == (6, 5)
    assert shapes["target_ids0"] == (6, 7)
    order = order_of(found)
    for start in range(0, 35, STILLS):
        assert sorted(order[start : start + STILLS]) == list(range(STILLS))
    levels = np.concatenate([part["clips"][:, 0, 24, 24, 0] for part in found])
    assert levels.tolist() == [30 * row for row in order]
    assert all(part["valid"].all() and not part["padded"].any() for part in found)
    masks = np.concatenate([part["target_ids"][0] for part in found])
    assert len({mask.tobytes() for mask in masks}) > 30


@pytest.mark.slow
def test_images_are_the_same_however_the_work_is_divided(samples, images, monkeypatch):
    whole = training(samples, images=images)
    assert_equal(training(samples, images=images, first_step=3), whole[3:])
    assert_equal(training(samples, images=images, workers=2), whole)
    shares = [training(samples, images=images, process_index=h, process_count=2) for h in range(2)]
    assert_equal([workers._join(step) for step in zip(*shares, strict=True)], whole)
    # One clip at a time, and one or two images with it; or none, if there are fewer.
    monkeypatch.setattr(workers, "PART_CLIPS", 1)
    assert_equal(training(samples, images=images), whole)
    fewer = images._replace(global_batch=2)
    parts = training(samples, images=fewer)
    monkeypatch.setattr(workers, "PART_CLIPS", 4)
    assert_equal(training(samples, images=fewer), parts)


def test_threads_do_not_change_the_content(samples):
    assert_equal(training(samples, threads=3), training(samples))


def test_parts_do_not_change_the_content(samples, monkeypatch):
    whole = training(samples)
    monkeypatch.setattr(workers, "PART_CLIPS", 1)
    assert_equal(training(samples), whole)


@pytest.mark.parametrize(("hosts", "step"), [(2, 0), (4, 0), (2, 3)])
def test_f22_hosts_share_the_same_global_batch_also_of_a_resumed_run(samples, hosts, step):
    shares = [
        training(samples, first_step=step, process_index=h, process_count=hosts)
        for h in range(hosts)
    ]
    joined = [workers._join(step) for step in zip(*shares, strict=True)]
    assert_equal(joined, training(samples)[step:])


@pytest.mark.parametrize("step", [1, 3, 5])
def test_f17_a_resumed_run_is_the_tail_of_the_whole_one(samples, step):
    assert_equal(training(samples, first_step=step), training(samples)[step:])
    assert training(samples, first_step=6) == []


def test_steps_positions_and_seeds_differ(samples):
    one = samples[:1]
    clips = [clip.tobytes() for batch in training(one) for clip in batch["clips"]]
    assert len(set(clips)) > 15
    assert training(one, seed=6)[0]["clips"].tobytes() != training(one)[0]["clips"].tobytes()


def test_every_epoch_visits_every_sample_once_in_a_new_order(samples):
    order = order_of(training(samples, last_step=10))
    epochs = [order[i : i + VIDEOS] for i in range(0, 40, VIDEOS)]
    assert all(sorted(epoch) == list(range(VIDEOS)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_sources_are_mixed_by_weight_and_each_has_its_epochs(samples):
    weights = {"videos:a": 3.0, "videos:b": 1.0}
    order = order_of(training(samples, last_step=24, weights=weights))
    of_a, of_b = [row for row in order if row < 4], [row for row in order if row >= 4]
    assert (len(of_a), len(of_b)) == (72, 24)
    for rows, size in ((of_a, 4), (of_b, 6)):
        for start in range(0, len(rows), size):
            assert len(set(rows[start : start + size])) == size
    # The mixture is even over time, not only in the end.
    assert sum(row < 4 for row in order[:16]) == 12


@pytest.mark.parametrize("weights", [{"videos:a": 1.0}, {"videos:a": 1.0, "videos:b": 0.0}])
def test_weights_that_miss_a_source_are_an_error(samples, weights):
    with pytest.raises(UserError, match="weights"):
        training(samples, weights=weights)


@pytest.fixture
def with_bad_file(samples, tmp_path) -> list[Sample]:
    bad = tmp_path / "bad.avi"
    bad.write_bytes(b"not a video at all")
    return [*samples[:3], dataclasses.replace(samples[3], path=str(bad)), *samples[4:]]


def test_f04_a_file_that_fails_is_marked_and_nothing_else_changes(samples, with_bad_file):
    seen = 0
    for batch, good in zip(training(with_bad_file), training(samples), strict=True):
        bad = batch["sample_ids"] == 3
        seen += bad.sum()
        assert (batch["valid"] == ~bad).all()
        assert (batch["clips"][bad] == 0).all()
        assert all(batch["error"][bad])
        assert not any(batch["error"][~bad])
        for key in ("clips", "sample_ids", "padded"):
            assert (batch[key][~bad] == good[key][~bad]).all()
        for key in ("context_ids", "target_ids"):
            assert all((a == b).all() for a, b in zip(batch[key], good[key], strict=True))
    assert seen


@pytest.mark.parametrize("count", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_f01_f05_evaluation_scores_every_sample_once_in_input_order(with_bad_file, count):
    batches = list(
        pipeline.evaluation_batches(with_bad_file, clip=CLIP, global_batch=4, workers=count)
    )
    assert [batch["clips"].shape[0] for batch in batches] == [4, 4, 4]
    assert order_of(batches) == [*range(VIDEOS), -1, -1]
    valid = np.concatenate([batch["valid"] for batch in batches])
    errors = np.concatenate([batch["error"] for batch in batches])
    assert valid.tolist() == [row != 3 for row in range(VIDEOS)] + [False, False]
    assert [bool(error) for error in errors] == [row == 3 for row in range(12)]
    assert batches[0]["context_ids"] == ()
    centre = batches[0]["clips"][1, :, 16, 16, 0].astype(int) - 20
    assert np.abs(centre - [2, 4, 6, 8]).max() <= 2


def test_evaluation_on_two_hosts_with_two_clips_per_sample(samples):
    options = {"clip": CLIP, "global_batch": 8, "clips_per_sample": 2}
    whole = list(pipeline.evaluation_batches(samples, **options))
    assert order_of(whole) == [row for row in range(VIDEOS) for _ in range(2)] + [-1] * 4
    assert (whole[0]["clips"][0] != whole[0]["clips"][1]).any()
    shares = [
        pipeline.evaluation_batches(samples, process_index=h, process_count=2, **options)
        for h in range(2)
    ]
    assert_equal([workers._join(step) for step in zip(*shares, strict=True)], whole)


def test_f03_padding_is_counted(samples):
    clip = dataclasses.replace(CLIP, frames=8)
    (batch,) = pipeline.evaluation_batches(samples[:2], clip=clip, global_batch=2)
    assert batch["padded"].tolist() == [2, 2]
    assert (batch["clips"][:, -1] == batch["clips"][:, -2]).all()
    assert (batch["clips"][:, -2] != batch["clips"][:, -3]).any()
    (batch,) = training(samples, clip=clip, grid=(4, 4, 4), last_step=1, padded="masked")
    assert batch["frames"].tolist() == [6] * 4


@pytest.mark.parametrize(
    ("change", "message"), [({"frames": 0}, "scan the samples"), ({"fps": 0.0}, "use stride")]
)
def test_samples_without_frames_or_rate_are_an_error_at_once(samples, change, message):
    broken = [*samples[:2], dataclasses.replace(samples[2], **change)]
    with pytest.raises(UserError, match=message) as caught:
        training(broken, clip=dataclasses.replace(CLIP, by="fps", value=8))
    assert samples[2].path in str(caught.value)


def test_impossible_divisions_and_masks_are_errors_before_iterating(samples):
    with pytest.raises(UserError, match="global batch"):
        pipeline.evaluation_batches(samples, clip=CLIP, global_batch=3, process_count=2)
    with pytest.raises(UserError, match="context_tokens"):
        training(samples, masks=(MaskSpec(2, 0.2, 32, 6),))
    with pytest.raises(UserError, match="no samples"):
        training([])


@pytest.mark.slow
def test_f09_a_killed_worker_fails_the_run(samples):
    batches = as_made(samples, seed=0, last_step=10_000, workers=2)
    for _ in range(2):  # one of each worker, so both have started and ignore polite signals
        next(batches)
    worker = multiprocessing.active_children()[0]
    # A polite signal to the whole job, as before a preemption, must not take the data away.
    os.kill(worker.pid, signal.SIGTERM)
    for _ in range(20):
        next(batches)
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(UserError, match="worker died"):
        for _ in batches:
            pass
    assert not multiprocessing.active_children()


class EndsEarly:
    """A builder whose error Grain takes for the end of the data."""

    def __call__(self, step: int, offset: int, count: int):
        if step == 2:
            raise StopIteration
        return {"clips": np.zeros((count, 1))}


@pytest.mark.parametrize("count", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_f09_batches_that_end_early_fail_the_run(count):
    with pytest.raises(RuntimeError, match="3 batches early"):
        list(workers.build(EndsEarly(), 0, 5, 2, workers=count, threads=1))


def test_workers_receive_little(samples):
    many = [dataclasses.replace(samples[0], name=str(i)) for i in range(20_000)]
    videos = pipeline._Videos.of(many, CLIP)
    assert len(cloudpickle.dumps(videos)) < 20_000 * (len(samples[0].path) + 20)


EXAMPLES = np.array([[0, 1], [2, -1], [-1, -1], [3, 4], [5, 6], [7, 8]])  # int [steps * batch, V]


def examples(samples, **options):
    defaults = {"clip": CLIP, "clips_per_sample": 2, "global_batch": 2, "seed": 5}
    steps = {"first_step": 0, "last_step": 3, "augment": "none"}
    return list(pipeline.example_batches(samples, EXAMPLES, **defaults | steps | options))


def test_f16_examples_have_a_slot_for_every_clip_of_every_view(samples):
    batches = examples(samples)
    ids = np.concatenate([batch["sample_ids"] for batch in batches])
    np.testing.assert_array_equal(ids, np.repeat(EXAMPLES, 2, axis=1))
    valid = np.concatenate([batch["valid"] for batch in batches])
    np.testing.assert_array_equal(valid, ids >= 0)
    clips = np.concatenate([batch["clips"] for batch in batches])
    assert clips.shape == (6, 4, 4, 32, 32, 3)
    assert not clips[~valid].any()
    # They are the clips that evaluation would cut.
    whole = pipeline.evaluation_batches(samples, clip=CLIP, global_batch=20, clips_per_sample=2)
    wanted = next(whole)["clips"]
    for example, row in np.argwhere(EXAMPLES >= 0):
        sample = EXAMPLES[example, row]
        np.testing.assert_array_equal(
            clips[example, 2 * row : 2 * row + 2], wanted[2 * sample : 2 * sample + 2]
        )


@pytest.mark.parametrize("augment", ["crops", "original"])
def test_augmented_examples_depend_on_step_and_place_alone(samples, augment):
    batches = examples(samples, augment=augment)
    assert_equal(examples(samples, augment=augment, first_step=2), batches[2:])
    parts = [examples(samples, augment=augment, process_index=i, process_count=2) for i in (0, 1)]
    for batch, *halves in zip(batches, *parts, strict=True):
        joined = np.concatenate([half["clips"] for half in halves])
        np.testing.assert_array_equal(joined, batch["clips"])
    assert any(
        not np.array_equal(a["clips"], b["clips"])
        for a, b in zip(batches, examples(samples), strict=True)
    )


def test_the_paper_s_examples_do_not_depend_on_what_is_known_of_colours(samples):
    grey = [dataclasses.replace(sample, grey=True) for sample in samples]
    assert examples(grey, augment="crops")[0]["clips"].shape[-1] == 1
    known, unknown = (examples(some, augment="original") for some in (grey, samples))
    assert_equal(known, unknown)
    one, two = (batch["clips"][batch["valid"]] for batch in known[:2])
    assert len({clip.tobytes() for clip in (*one, *two)}) == len(one) + len(two)
