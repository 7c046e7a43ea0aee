"""Maps of embeddings: one point for each video, labels from three places, numbers by patient."""

import sys
from functools import partial
from types import SimpleNamespace

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.manifold import trustworthiness

from echojepa_jax.api import map_embeddings
from echojepa_jax.features.embedding_map import (
    Labels,
    find_labels,
    project,
    read_embeddings,
    separation,
)
from echojepa_jax.report.embedding_pictures import draw
from echojepa_jax.utils.errors import UserError
from tests import programs

pytestmark = pytest.mark.slow

VIEWS = ("A2C", "A4C")


def write(folder, source="phantom:adult,patients=12", patients=12, clips=2):
    """Two views of each patient, which differ in the first channel; one clip has no embedding."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for video in range(2 * patients):
        patient, view = divmod(video, 2)
        for clip in range(clips):
            embedding = rng.standard_normal(6).astype(np.float32)
            embedding[0] += 4 * view
            rows.append(
                {
                    "source": source, "name": f"v{video}", "patient": f"p{patient}",
                    "study": f"s{patient}", "view": VIEWS[view], "split": "", "row": video,
                    "clip": clip, "embedding": embedding.tolist(),
                }
            )  # fmt: skip
    rows[3]["embedding"] = None
    half = len(rows) // 2
    for number, part in enumerate((rows[:half], rows[half:])):
        table = pa.Table.from_pylist(part)
        pq.write_table(table, folder / f"embeddings-{number:05d}-of-00002.parquet")
    return rows


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "embeddings")
    return tmp_path / "embeddings"


def test_a_video_is_the_mean_of_its_clips(tmp_path):
    rows = write(tmp_path / "embeddings")
    found = read_embeddings(tmp_path / "embeddings")
    assert found.values.shape == (24, 6)
    assert found.names == [f"v{i}" for i in range(24)]
    mean = np.mean([rows[0]["embedding"], rows[1]["embedding"]], axis=0)
    np.testing.assert_allclose(found.values[0], mean, rtol=1e-6)
    np.testing.assert_allclose(found.values[1], rows[2]["embedding"])  # the other clip is missing
    assert found.columns["view"][:2] == list(VIEWS)
    with pytest.raises(UserError, match="contains no embeddings: give the --out folder"):
        read_embeddings(tmp_path)


def test_labels_of_a_table_of_the_embeddings_and_of_the_sources(tmp_path, folder):
    found = read_embeddings(folder)
    assert find_labels(found, "view").values[:3] == ["A2C", "A4C", "A2C"]
    table = tmp_path / "labels.csv"
    table.write_text("patient,site,age\np0,Oslo,70.5\np1,Bergen,\n")
    sites = find_labels(found, "site", table).values
    assert sites[:5] == ["Oslo", "Oslo", "Bergen", "Bergen", None]
    ages = find_labels(found, "age", table)
    assert ages.are_numbers
    assert ages.values[:3] == [70.5, 70.5, None]
    assert not find_labels(found, "view", table).are_numbers
    table.write_text("patient,site\np0,Oslo\np0,Bergen\n")
    with pytest.raises(UserError, match="has two values of 'site' for the patient 'p0'"):
        find_labels(found, "site", table)

    # The names of this file's videos are not those of its source: of a table of videos they are.
    videos = tmp_path / "videos.csv"
    lines = [f"v{i}.avi,v{i},{40.5 + i}" for i in range(23)]
    videos.write_text("\n".join(["path,name,ef [%]", *lines]))
    write(tmp_path / "others", source=f"csv:{videos}")
    found = read_embeddings(tmp_path / "others")
    efs = find_labels(found, "EF")
    assert efs.values == [*(40.5 + i for i in range(23)), None]
    assert efs.unit == "%"
    unknown = "there is no label 'rvsp': --colour must be one of view, .*ef"
    with pytest.raises(UserError, match=unknown):
        find_labels(found, "rvsp")
    videos.unlink()
    with pytest.raises(UserError, match="is in this source: name a table"):
        find_labels(found, "ef")


def test_principal_components_of_a_known_plane():
    rng = np.random.default_rng(0)
    plane = rng.standard_normal((50, 2)) * (3, 1)
    axes = np.linalg.qr(rng.standard_normal((6, 2)))[0]
    points, (first, _) = project((plane @ axes.T + 7).astype(np.float32))
    # Distances in the plane stay as they are.
    wanted = np.linalg.norm(plane - plane[:1], axis=1)
    np.testing.assert_allclose(np.linalg.norm(points - points[:1], axis=1), wanted, rtol=1e-4)
    lengths = np.linalg.svd(plane - plane.mean(axis=0), compute_uv=False) ** 2
    share = 100 * lengths[0] / lengths.sum()
    assert first == f"principal component 1 ({share:.0f} % of the variance)"


def test_umap_gets_the_settings_and_no_labels(monkeypatch):
    given = {}

    class Umap:
        def __init__(self, **settings):
            given.update(settings)

        def fit_transform(self, *values):
            given["arguments"] = len(values)
            return values[0][:, :2]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Umap))
    project(np.zeros((16, 3)), "umap")
    settings = {"n_neighbors": 15, "min_dist": 0.1, "metric": "cosine", "random_state": 42}
    assert given == settings | {"n_jobs": 1, "arguments": 1}
    with pytest.raises(UserError, match="UMAP needs more than 15 videos, and there are 15"):
        project(np.zeros((15, 3)), "umap")
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(UserError, match=r"needs umap-learn: pip install .*\[umap\]"):
        project(np.zeros((16, 3)), "umap")


@pytest.mark.filterwarnings("error:n_jobs value:UserWarning")
def test_umap_itself_keeps_neighbours_and_draws_the_same_map_again(monkeypatch):
    monkeypatch.setenv("NUMBA_OPT", "0")  # it compiles for longer than it runs
    import numba

    # These few points need neither a search for neighbours among thousands of points, which takes
    # 15 s to compile, nor TensorFlow.
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with monkeypatch.context() as patch:
        patch.setattr(numba.config, "DISABLE_JIT", True)
        import pynndescent  # noqa: F401
    rng = np.random.default_rng(0)
    turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    axes = np.linalg.qr(rng.standard_normal((8, 2)))[0]
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1) @ axes.T
    values = (circle + 0.02 * rng.standard_normal(circle.shape)).astype(np.float32)
    points, again = (project(values, "umap").points for _ in range(2))
    np.testing.assert_array_equal(points, again)
    kept = partial(trustworthiness, values, n_neighbors=5, metric="cosine")
    assert kept(points) > 0.95
    assert kept(rng.permutation(points)) < 0.7


def test_numbers_tell_classes_from_patients():
    rng = np.random.default_rng(0)
    patients = [f"p{i // 10}" for i in range(120)]
    classes = [VIEWS[i % 2] for i in range(120)]
    apart = rng.standard_normal((120, 8))
    apart[1::2, 0] += 20
    found = separation(apart, classes, patients)
    assert found.accuracy == 1.0
    assert found.silhouette > 0.3
    assert found.commonest == 0.5
    # Videos of a patient are alike, and patients are of one class: with folds by video, the class
    # could be read from the patient.
    alike = np.repeat(rng.standard_normal((12, 8)), 10, axis=0)
    alike += 0.01 * rng.standard_normal((120, 8))
    by_patient = [VIEWS[int(p[1:]) % 2] for p in patients]
    assert separation(alike, by_patient, patients).accuracy < 0.8
    assert separation(alike, by_patient, [str(i) for i in range(120)]).accuracy > 0.95
    assert np.isnan(separation(apart, ["A4C"] * 120, patients).silhouette)
    assert np.isnan(separation(apart, classes, ["p"] * 120).accuracy)


def test_the_program_draws_a_panel_for_each_label(folder, tmp_path):
    table, out = tmp_path / "labels.csv", tmp_path / "new" / "map.png"
    table.write_text("name,ef\n" + "".join(f"v{i},{50.5 + i}\n" for i in range(20)))
    flags = f"--embeddings={folder}", "--colour=view", "--colour=ef", f"--labels={table}"
    ended = programs.succeed("map", *flags, f"--out={out}")
    assert ended.stdout.startswith(f"{out} shows 24 videos; view: silhouette 0.")
    assert "correct in 3 folds by patient (commonest class 50.0 %)" in ended.stdout
    height, width, _ = cv2.imread(str(out)).shape
    assert width > 2 * height * 0.9
    with pytest.raises(UserError, match="must end in"):
        map_embeddings(folder, tmp_path / "map.doc")


@pytest.mark.filterwarnings("error")
def test_many_classes_and_missing_labels_have_a_legend():
    rng = np.random.default_rng(0)
    values = [f"class {i % 30} with a long name that does not fit" for i in range(300)]
    values[:5] = [None] * 5
    figure = draw(
        project(rng.standard_normal((300, 4))),
        [Labels("site", values), Labels("ef", [None, *(float(i) for i in range(299))], "%")],
        [None, None],
    )
    first, second = (ax.get_legend() for ax in figure.axes[:2])
    names = [text.get_text() for text in first.get_texts()]
    assert len(names) == 13
    assert names[0] == "unknown (5)"
    assert names[-1].startswith("others (")
    assert [text.get_text() for text in second.get_texts()] == ["unknown (1)"]
