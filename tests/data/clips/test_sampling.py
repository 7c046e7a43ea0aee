"""Windows and strides of clips."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echojepa_jax.data.clips.sampling import (
    ClipSpec,
    clip_frame_ids,
    repeated_clips,
)
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.rng import generator


def ids_of(frames, fps, rng=None, **options):
    options = {"length": 16, "by": "fps", "value": 8} | options
    ids, padded = clip_frame_ids(frames, fps, rng, **options)
    return ids.tolist(), padded


@pytest.mark.parametrize(
    ("fps", "value", "stride"),
    [
        (30, 8, 3),
        (29.97, 8, 3),
        (50, 8, 6),
        (32, 8, 4),
        (31.1, 8, 4),
        (7, 8, 1),
        (30, 24, 1),
        (60, 24, 2),
    ],
)
def test_by_fps_uses_the_whole_stride_of_the_recipe(fps, value, stride):
    ids, padded = ids_of(500, fps, value=value)
    assert set(np.diff(ids)) == {stride}
    assert padded == 0


def test_by_duration_keeps_the_true_frame_rate():
    ids, _ = ids_of(300, 29.97, generator(0), by="duration", value=2.0)
    expected = [math.floor(i * 2.0 * 29.97 / 16) for i in range(16)]
    assert [i - ids[0] for i in ids] == expected
    # A 7 fps video has 14 frames in two seconds: some appear twice, none is held at the end.
    slow, padded = ids_of(300, 7.0, by="duration", value=2.0)
    assert slow[-1] - slow[0] == 13
    assert padded == 0


@pytest.mark.parametrize("frames", [1, 7, 16, 61, 300])
def test_a_share_of_one_spreads_the_frames_over_the_whole_video(frames):
    ids, padded = ids_of(frames, 0.0, generator(0), by="share", value=1.0)
    assert ids == np.linspace(0, frames - 1, 16).astype(int).tolist()
    assert padded == 0


def test_a_smaller_share_is_a_window_somewhere_in_the_video():
    windows = [ids_of(100, 0.0, generator(i), by="share", value=0.4)[0] for i in range(200)]
    assert {window[-1] - window[0] for window in windows} == {39}
    assert {window[0] for window in windows} >= {0, 30, 60}
    assert ids_of(100, 0.0, by="share", value=0.4)[0][0] == 30


def test_evaluation_takes_the_centre_or_the_centres_of_parts():
    assert ids_of(100, 0, by="stride", value=2)[0] == list(range(34, 66, 2))
    first = ids_of(100, 0, by="stride", value=2, part=(0, 2))[0]
    second = ids_of(100, 0, by="stride", value=2, part=(1, 2))[0]
    assert first[0] == 9
    assert second[0] == 59
    # Parts shorter than a clip: the windows overlap, but stay inside the video.
    assert ids_of(40, 0, by="stride", value=2, part=(0, 2))[0][0] == 0
    assert ids_of(40, 0, by="stride", value=2, part=(1, 2))[0][-1] == 38


def test_f03_short_videos_hold_their_last_frame_and_count_it():
    assert ids_of(10, 0, by="stride", value=1) == ([*range(10), *[9] * 6], 6)
    assert ids_of(31, 0, by="stride", value=2) == (list(range(0, 31, 2)), 0)
    assert ids_of(1, 30.0) == ([0] * 16, 15)


def test_every_start_is_drawn():
    rng = generator(0)
    starts = [ids_of(20, 0, rng, by="stride", value=1)[0][0] for _ in range(500)]
    counts = np.bincount(starts)
    assert counts.size == 5
    assert counts.min() > 60


def test_training_draws_each_clip_in_its_own_part_of_the_video():
    rng = generator(0)
    options = {"by": "stride", "value": 2}
    for part, low, high in (((0, 2), 0, 18), ((1, 2), 50, 68)):
        starts = {ids_of(100, 0, rng, part=part, **options)[0][0] for _ in range(400)}
        assert starts == {*range(low, high + 1)}
    # Parts shorter than a clip: as near to their own part as the video allows.
    starts = [{ids_of(50, 0, rng, part=(k, 2), **options)[0][0] for _ in range(20)} for k in (0, 1)]
    assert starts == [{0}, {18}]


def test_contiguous_clips_follow_each_other_from_the_first_frame():
    """As the paper's for RVSP: frames 0 to 15 and 16 to 31, also in training."""
    for rng in (None, generator(0)):
        how = {"by": "stride", "value": 1, "place": "contiguous", "rng": rng}
        assert ids_of(100, 0, part=(0, 2), **how) == ([*range(16)], 0)
        assert ids_of(100, 0, part=(1, 2), **how) == ([*range(16, 32)], 0)
        assert ids_of(100, 0, part=(1, 2), **how | {"value": 2})[0] == [*range(32, 64, 2)]
        # At the end of a short video, the last frame repeats.
        assert ids_of(20, 0, part=(1, 2), **how) == ([16, 17, 18, *[19] * 13], 12)
        assert ids_of(10, 0, part=(1, 2), **how) == ([9] * 16, 16)


def test_contiguous_clips_are_equal_only_where_both_show_the_last_frame_alone():
    clip = ClipSpec(16, 224, "stride", 1, place="contiguous")
    lengths = [(frames, 0.0) for frames in (1, 16, 17, 33)]
    expected = [[False, True, True], [False, False, True], [False, False, True], [False] * 3]
    assert repeated_clips(lengths, clip, 3).tolist() == expected


def test_files_describe_clips_in_the_words_of_earlier_versions():
    words = ["frames", "size", "by", "value", "area", "aspect"]
    assert list(ClipSpec().facts()) == words
    cut = ClipSpec(centre=0.875, place="contiguous")
    assert list(cut.facts()) == [*words, "centre", "place"]
    assert ClipSpec(**cut.facts()) == cut


@given(
    frames=st.integers(1, 2000),
    fps=st.floats(0.5, 240),
    length=st.integers(1, 64),
    how=st.one_of(
        st.tuples(st.just("fps"), st.integers(1, 60)),
        st.tuples(st.just("stride"), st.integers(1, 12)),
        st.tuples(st.just("duration"), st.floats(0.1, 10)),
        st.tuples(st.just("share"), st.floats(0.01, 1)),
    ),
    seed=st.one_of(st.none(), st.integers(0, 2**32)),
)
def test_ids_are_in_range_ascending_and_padding_is_counted(frames, fps, length, how, seed):
    by, value = how

    def draw():
        rng = None if seed is None else generator(seed)
        return clip_frame_ids(frames, fps, rng, length=length, by=by, value=value)

    ids, padded = draw()
    assert ids.shape == (length,)
    assert ids.dtype == np.int32
    assert ids[0] >= 0
    assert ids[-1] < frames
    assert (np.diff(ids) >= 0).all()
    assert (ids[length - padded :] == frames - 1).all()
    if padded:
        assert ids[0] == 0
    if by == "stride":
        assert (np.diff(ids[: length - padded]) == value).all()
        assert padded == max(0, length - math.ceil(frames / value))
    assert (draw()[0] == ids).all()


@pytest.mark.parametrize("by", ["fps", "duration"])
def test_an_unknown_frame_rate_names_the_way_out(by):
    with pytest.raises(UserError, match='by="stride"'):
        ids_of(100, 0.0, by=by)


@pytest.mark.parametrize(
    "options",
    [
        {"by": "seconds"},
        {"by": "stride", "value": 0.5},
        {"value": 0},
        {"by": "share", "value": 1.1},
    ],
)
def test_impossible_options_are_errors(options):
    with pytest.raises(UserError):
        ids_of(100, 30.0, **options)
