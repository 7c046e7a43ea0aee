"""The attention of a probe's query: as computed by hand, through the API, and as pictures."""

import dataclasses
import json

import cv2
import jax
import numpy as np
import pytest
from scipy.special import softmax

from echojepa_jax.api import load_encoder, load_probe, save_attention
from echojepa_jax.data import manifest
from echojepa_jax.features.clip_input import clip_spec
from echojepa_jax.models.heads import Head
from echojepa_jax.probes.attention import head_attention
from echojepa_jax.probes.saved import SavedProbe
from echojepa_jax.probes.task import Task
from echojepa_jax.report.attention_pictures import write_encoder_maps, write_probe_maps
from echojepa_jax.train.load_weights import load_encoder_weights
from echojepa_jax.train.workdir import Workdir
from echojepa_jax.utils.errors import UserError

pytestmark = pytest.mark.slow

WIDTH = 24


def head_of(**changes):
    """A head with parameters of unit size, whose attention is far from uniform."""
    head = Head(**{"kind": "attentive", "outputs": 1, "heads": 2} | changes)
    slots = head.views * head.clips
    shape = np.zeros((1, slots, 1, WIDTH), np.float32), np.ones((1, slots), bool)
    params = jax.eval_shape(head.init, jax.random.key(0), *shape)["params"]
    rng = np.random.default_rng(0)
    return head, jax.tree.map(lambda x: 0.5 * rng.standard_normal(x.shape, np.float32), params)


def by_hand(params, tokens):
    """The attention of the query to tokens [N, D], with a key for each of them: [heads, N]."""
    pooler = params["pooler"]
    centred = tokens - tokens.mean(-1, keepdims=True)
    x = centred / np.sqrt(tokens.var(-1, keepdims=True) + 1e-5)
    x = x * pooler["norm1"]["scale"] + pooler["norm1"]["bias"]
    key = (x @ pooler["kv"]["kernel"] + pooler["kv"]["bias"])[:, :WIDTH]
    query = (pooler["query"] @ pooler["q"]["kernel"] + pooler["q"]["bias"])[0]
    key, query = key.reshape(-1, 2, WIDTH // 2), query.reshape(2, WIDTH // 2)
    return softmax(np.einsum("nhc,hc->hn", key, query) * (WIDTH // 2) ** -0.5, axis=-1)


@pytest.mark.parametrize("fusion", ["early", "late"])
def test_attention_of_the_query_by_hand(fusion):
    head, params = head_of(clips=3, fusion=fusion)
    tokens = np.random.default_rng(1).standard_normal((2, 3, 5, WIDTH)).astype(np.float32)
    present = np.array([[True, True, False], [True, True, True]])
    out, found = head_attention(head, params, tokens, present)
    np.testing.assert_allclose(out, head.apply({"params": params}, tokens, present), atol=1e-5)
    for example in range(2):
        seen = tokens[example][present[example]]
        if fusion == "late":
            wanted = [5 * by_hand(params, slot).mean(0) for slot in seen]
        else:
            share = by_hand(params, seen.reshape(-1, WIDTH)).mean(0)
            wanted = (share * share.size).reshape(len(seen), 5)
        np.testing.assert_allclose(found[example][present[example]], wanted, atol=1e-4)
        assert np.ptp(wanted) > 0.5
    if fusion == "early":
        assert not np.asarray(found)[0, 2].any()


@pytest.fixture
def finished(encoder_folder, tmp_path):
    """Makes the workdir of a probe with random parameters."""
    weights = load_encoder_weights(str(encoder_folder))

    def make(tokens="all", views=(), **changes):
        head, params = head_of(clips=2, views=max(1, len(views)), **changes)
        task = Task("regression", "ef", mean=55.0, std=12.0, unit="%")
        saved = SavedProbe(
            head, params, task, clip_spec(weights), 2, views,
            weights.fingerprints()["encoder"], WIDTH, tokens, "float32",
        )  # fmt: skip
        folder = tmp_path / "probe"
        folder.mkdir()
        saved.save(folder)
        (folder / "config.json").write_text(json.dumps({"weights": str(encoder_folder)}))
        Workdir(folder).mark_done(1)
        return folder

    return make


def test_maps_of_a_prediction_and_their_picture(finished, hearts, tmp_path):
    probe = load_probe(finished())
    samples = manifest.load((f"echonet_dynamic:{hearts}",), quarantine=None, workers=1)
    maps = probe.attention(samples[0].path)
    assert [one.name for one in maps] == ["probe, clip 1", "probe, clip 2"]
    assert all(one.values.shape == (2, 4, 4) for one in maps)
    assert all(one.frames.shape == (4, 32, 32, 3) for one in maps)
    # 1 is the mean over all tokens that the query reads.
    values = np.stack([one.values for one in maps])
    np.testing.assert_allclose(values.mean(), 1, rtol=1e-5)
    tokens = probe.encoder.tokens(samples[0].path, clips=2)
    share = by_hand(probe.saved.params, tokens.reshape(-1, WIDTH)).mean(0)
    np.testing.assert_allclose(values.reshape(-1), 64 * share, rtol=1e-3)

    frozen = probe.encoder.frozen
    encoder = dataclasses.replace(frozen, clips=probe.saved.clips, keep="all")
    told = write_probe_maps(probe.saved, encoder, samples, tmp_path / "maps", 2)
    assert told == f"{tmp_path / 'maps'} shows 2 of 8 examples"
    pictures = sorted((tmp_path / "maps").iterdir())
    names = [f"000_{samples[0].name}.png", f"001_{samples[-1].name}.png"]
    assert [path.name for path in pictures] == names
    # Coloured tokens on grey frames.
    picture = cv2.imread(str(pictures[0])).astype(int)
    assert np.count_nonzero(np.ptp(picture, axis=-1) > 100) > 1000
    with pytest.raises(UserError, match="is not an empty folder"):
        write_encoder_maps(frozen, samples, tmp_path / "maps", 2, False)
    with pytest.raises(UserError, match=r"must end in \.png, \.svg or \.pdf"):
        save_attention(maps, tmp_path / "maps.heart")


def test_a_study_with_a_missing_view(finished, hearts):
    probe = load_probe(finished(views=("A2C", "A4C")))
    video = str(next((hearts / "Videos").glob("*.avi")))
    maps = probe.attention({"A4C": video})
    assert [one.name for one in maps] == ["probe, A4C clip 1", "probe, A4C clip 2"]
    np.testing.assert_allclose(np.mean([one.values for one in maps]), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "linear"}, "the head of this probe is linear: it reads the mean"),
        ({"tokens": "mean"}, "was trained with head.tokens=mean, so its head sees no single"),
    ],
)
def test_heads_without_attention_say_so(finished, hearts, changes, message):
    probe = load_probe(finished(**changes))
    with pytest.raises(UserError, match=message):
        probe.attention(str(next((hearts / "Videos").glob("*.avi"))))


def test_a_video_that_cannot_be_decoded_has_no_picture(encoder_folder, hearts, tmp_path):
    encoder = load_encoder(encoder_folder).frozen
    samples = manifest.load((f"echonet_dynamic:{hearts}",), quarantine=None, workers=1)[:2]
    broken = tmp_path / "broken.avi"
    broken.write_bytes(b"RIFF")

    samples[0] = dataclasses.replace(samples[0], path=str(broken))
    told = write_encoder_maps(encoder, samples, tmp_path / "maps", 0, rollout=True)
    assert told.endswith("shows 1 of 2 examples; 1 more could not be made, see the log")
    with pytest.raises(UserError, match=r"no picture could be made: .* cannot be decoded"):
        write_encoder_maps(encoder, samples[:1], tmp_path / "none", 0, rollout=False)
