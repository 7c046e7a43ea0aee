"""The report of made-up probe runs. To look at one: pytest tests/report --basetemp=DIR."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echojepa_jax.probes.reading import reading
from echojepa_jax.probes.task import Task
from echojepa_jax.report import plots
from echojepa_jax.report.measures import DASH, MINUS, Series
from echojepa_jax.report.plots import Panel
from echojepa_jax.report.probe_page import write_probe_report
from echojepa_jax.report.probe_tables import read_predictions, worst
from echojepa_jax.report.training_page import write_report
from echojepa_jax.utils.errors import UserError
from tests.makers.pages import assert_stands_alone, figures, text_of
from tests.makers.tables import rows, write_lines, write_rows

pytestmark = pytest.mark.slow

HEADS = ["lr0.0001_wd0.01", "lr0.001_wd0.01", "lr0.1_wd0.01"]
CHOSEN, DIVERGED = HEADS[0], HEADS[2]
CLASSES = ["A2C", "A4C", "<script>x"]
EPOCHS = 20


def scored(value: float | None, low: float | None = None, high: float | None = None) -> dict:
    return {"value": value, "low": low, "high": high}


def epochs(score_at: dict[str, float], change: float, heads: list[str] = HEADS) -> list[dict]:
    """Scores move by `change` an epoch, up to epoch 17; the last head never is finite."""
    lines = []
    for epoch in range(1, EPOCHS + 1):
        line: dict[str, Any] = {"step": epoch, "time": epoch, "seconds": 1.5}
        for head in heads:
            moved = score_at.get(head, 9.0) + change * (min(epoch, 17) - 17)
            lost = head == DIVERGED
            line |= {
                f"train_loss/{head}": None if lost else 1 / epoch,
                f"val_loss/{head}": None if lost else 0.2 + 1 / epoch,
                f"val_score/{head}": None if lost else moved,
            }
        lines.append(line)
    return lines


def prediction(i: int, target: Any, said: Any, **more: Any) -> dict[str, Any]:
    return {
        "id": f"v{i:03}",
        "patient": f"p{i // 2}",
        "study": f"s{i // 2}",
        "split": "test",
        "view": ("A2C", "A4C")[i % 2],
        "target": target,
        "prediction": said,
        "spread": 1.25,
        "status": "ok",
    } | more


def regression_result() -> dict[str, Any]:
    return {
        "task": {"kind": "regression", "target": "ef", "unit": "%"},
        "chosen": {"head": CHOSEN, "lr": 1e-4, "weight_decay": 0.01}
        | {"epoch": 17, "epochs": EPOCHS, "val_score": 5.1},
        "test": {
            "examples": 200,
            "unreadable": 23,
            "patients": 100,
            "scores": {
                "mae": scored(5.2, 4.8, 5.7),
                "rmse": scored(6.6, 6.1, 7.2),
                "r2": scored(-0.04, -0.1, 0.02),
                "pearson": scored(None),
            },
            "baseline": {"mae": 9.9},
        },
        "study": {"examples": 110, "patients": 100, "baseline": {"mae": 9.8}}
        | {"scores": {"mae": scored(4.5, 4.1, 4.9)}},
    }


def add_reading(workdir: Path, task: Task, thresholds: dict[float, float]) -> None:
    """As a probe run does: the clinical reading of predictions.csv in metrics.json."""
    found = json.loads((workdir / "metrics.json").read_text())
    found["clinical"] = reading(task, rows(workdir / "predictions.csv"), thresholds, 50, 0)
    (workdir / "metrics.json").write_text(json.dumps(found))


def fill_regression(workdir: Path) -> None:
    rng = np.random.default_rng(0)
    workdir.mkdir()
    (workdir / "metrics.json").write_text(json.dumps(regression_result()))
    config = {"weights": "/home/jo/runs/base", "task": {"target": "ef", "views": []}}
    (workdir / "config.json").write_text(json.dumps(config))
    manifest = {"command": f"probe --workdir={workdir}", "weights": {"parameters": 5_524_416}}
    manifest["parameters"] = {"head": 1234, "heads": 3}
    (workdir / "manifest.json").write_text(json.dumps(manifest))
    write_lines(workdir / "metrics.jsonl", epochs({CHOSEN: 5.1, HEADS[1]: 6.25}, -0.1))
    refused = {"stage": "scan", "kind": "bad", "source": "videos:/home/jo", "path": "a.avi"}
    write_lines(workdir / "quarantine.jsonl", [refused | {"reason": "truncated: /home/jo/a.avi"}])
    true = rng.uniform(20, 75, 200)
    rows = [prediction(i, t, t + rng.uniform(-8, 8)) for i, t in enumerate(true)]
    rows[7] |= {"id": "<script>alert(1)</script>", "target": 30.0, "prediction": 71.0}
    rows[8] |= {"id": "/home/jo/clips/far.avi", "target": 70.0, "prediction": 30.0, "spread": ""}
    status = "unreadable: decode: /home/jo/clips/b.avi is cut off"
    rows += [prediction(i, 50.0, "", spread="", status=status) for i in range(200, 223)]
    for i, row in enumerate(rows):
        row |= {"spread": "" if i % 10 == 0 else 1.25 + i % 3, "sex": ("F", "<script>m")[i % 2]}
        row |= {"age": 5 + i % 60, "distance": i / 190, "flag": "far" if i > 190 else "near"}
    rows[7]["spread"], rows[8]["spread"] = 1.25, ""
    write_rows(workdir / "predictions.csv", rows)
    add_reading(workdir, Task("regression", "ef", 50.0, 10.0, unit="%"), {50.0: 51.25, 40.0: 42.5})
    pictures = {f"picture_{k}": np.full((32, 96, 3), 100 * k, np.uint8) for k in range(2)}
    error = [abs(row["target"] - row["prediction"]) for row in rows[:200]]
    best = {"best_rows": np.argsort(error)[:1], "best_picture_0": pictures["picture_0"]}
    np.savez(workdir / "worst.npz", rows=np.array([7, 8]), **pictures, **best)
    studies = [
        {"study": f"s{i}", "patient": f"p{i}", "target": t, "prediction": t + 2 * (i % 2)}
        | {"examples": 2}
        for i, t in enumerate(true[:50])
    ]
    write_rows(workdir / "studies.csv", studies)


def fill_classification(workdir: Path) -> None:
    """A2C: 8 of 10 right, two called A4C. A4C: all 10 right. The third is never said: 0 of 2."""
    workdir.mkdir()
    result = {
        "task": {"kind": "classification", "target": "view", "unit": "", "classes": CLASSES},
        "chosen": regression_result()["chosen"] | {"val_score": 0.9},
        "test": {
            "examples": 22,
            "unreadable": 0,
            "patients": 11,
            "scores": {
                "accuracy": scored(0.8182, 0.7, 0.913),
                "balanced_accuracy": scored(0.6, 0.5, 0.7),
                "macro_f1": scored(0.55),
                "auroc": scored(None),
            },
            "baseline": {"accuracy": 0.4545},
        },
        "study": None,
    }
    (workdir / "metrics.json").write_text(json.dumps(result))
    many = [*HEADS, *(f"lr{i}_wd0" for i in range(9))]
    write_lines(workdir / "metrics.jsonl", epochs(dict.fromkeys(many, 0.9), 0.01, many))
    rows, pairs = [], [("A2C", "A2C")] * 8 + [("A2C", "A4C")] * 2 + [("A4C", "A4C")] * 10
    pairs += [("<script>x", "A4C")] * 2
    for i, (target, said) in enumerate(pairs):
        sure = 0.9 - 0.01 * i
        shares = {f"p_{name}": sure if name == said else (1 - sure) / 2 for name in CLASSES}
        rows.append(prediction(i, target, said) | shares)
    write_rows(workdir / "predictions.csv", rows)
    add_reading(workdir, Task("classification", "view", classes=tuple(CLASSES)), {})


def figure(page: str, start: str) -> str:
    (svg,) = [svg for alt, svg in figures(page).items() if alt.startswith(start)]
    return svg


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("probes") / "ef"
    fill_regression(path)
    assert write_probe_report(path) == path / "report.html"
    assert not list(path.glob(".*.partial"))
    return (path / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def classification(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("probes") / "view"
    fill_classification(path)
    return write_probe_report(path).read_text(encoding="utf-8")


def test_regression_scores(regression: str) -> None:
    text = text_of(regression)
    title = "echojepa_jax probe report ef ef: MAE 5.20 points (95 % interval 4.80 to 5.70) on "
    assert f"{title}200 videos of 100 patients" in text
    assert 'class="verdict good"' in regression
    guess = "9.90 points if the training mean is always predicted"
    assert f"MAE 5.20 points 95 % interval 4.80 to 5.70; {guess}; R² {MINUS}0.04" in text
    assert f"R² {MINUS}0.04 {MINUS}0.10 to 0.02" in text
    assert "MAE, mean of a study 4.50 points 95 % interval 4.10 to 4.90;" in text
    assert "predicted; 110 studies of 100 patients" in text
    assert "MAE 5.20 points 4.80 to 5.70 4.50 points 4.10 to 4.90" in text
    assert f"Pearson's r {DASH} {DASH} {DASH} {DASH}" in text
    assert "Duration 19s of training" in text
    assert regression.count("<dt>") == 4
    assert "Unreadable 23 videos" in text
    assert "Parameters encoder 5,524,416, head 1,234" in text
    assert "1 before the first step cannot be used truncated" in text


def test_regression_figures(regression: str) -> None:
    scatter = figure(regression, "Predicted over true, videos")
    assert ">A2C<" in scatter
    assert ">A4C<" in scatter
    assert "predicted (%)" in scatter
    assert "mean of true and predicted (%)" in figure(regression, "Difference over mean of 200")
    # Every other study was two too high.
    studies = "Difference over mean of 50 means of studies: bias 1.00 points, 95 % limits"
    assert f"{MINUS}1.96 SD" in figure(regression, studies)


def test_the_clinical_reading_of_an_ejection_fraction(regression: str) -> None:
    text = text_of(regression)
    assert "200 videos are scored; 23 without a prediction could not be scored. 9 are" in text
    assert re.search(rf"Bias {MINUS}?0\.\d+ points {MINUS}?0\.\d+ to \d\.\d+ points", text)
    assert re.search(r"Slope of the calibration line 0\.9\d+ 0\.\d+ to \d\.\d+ Intercept", text)
    low = re.search(
        r"below 50 % (\d+) (\d+) 0\.\d\d \(0\.\d\d to \S+\) 0\.\d\d \(.*?\) 51\.2 % "
        r"\d+\.\d % \(.*?\) \d+\.\d % \(.*?\) below 40 %",
        text,
    )
    assert low
    assert int(low[1]) + int(low[2]) == 200
    groups = text.split("Error by group")[1].split("Uncertainty and error")[0]
    for name in ("True value below 30 ", " 60 and above ", "Age in years 1 to 6 ", "Sex <script>m"):
        assert name in groups
    assert "Flag far 9 " in groups
    assert "View A2C 100 100 " in groups
    doubt = text.split("Uncertainty and error")[1]
    assert re.search(r"Spread over clips 179 21 \S+ \(.*?\) 4\.\d+ points", doubt)
    assert "Spread over heads" not in doubt
    line = figure(regression, "Calibration: true against predicted values of 200 examples")
    assert ">predicted (%)<" in line
    curve = figure(regression, "Error over the share of examples that is kept: by spread over")
    assert ">spread over clips<" in curve
    assert ">distance from the training data<" in curve


def test_worst_predictions_come_first(regression: str) -> None:
    text = text_of(regression)
    assert (
        "71.0 % instead of 30.0 % <script>alert(1)</script>, A4C, spread 1.25 points "
        "30.0 % instead of 70.0 % …/far.avi, A2C " in text
    )
    shown = regression.split('id="worst-predictions"')[1].split("<h2")[0]
    assert shown.count(" instead of ") == 12
    # There are pictures of two of them, and they are where they belong.
    assert re.findall(r'<img src="data:image/jpeg[^"]*" alt="([^"]*)"', shown) == [
        "A strip of frames of &lt;script&gt;alert(1)&lt;/script&gt;.",
        "A strip of frames of …/far.avi.",
    ]


def test_best_predictions_are_shown_with_pictures(regression: str, classification: str) -> None:
    shown = regression.split('id="best-predictions"')[1].split("<h2")[0]
    assert shown.count("<img ") == 1
    assert re.search(r"<p><strong>74\.8 %</strong><br>\s*<span>v026, A2C</span>", shown)
    # A file of an earlier version, or none, has no best examples.
    assert "Best predictions" not in classification


def test_error_and_accuracy_by_view(regression: str, classification: str) -> None:
    (alt,) = [alt for alt in figures(regression) if alt.startswith("Error by view: A2C ")]
    assert "A4C 4." in alt
    drawn = figure(classification, "Accuracy by view: A2C 81.8 %, A4C 81.8 %")
    assert ">A2C (11)<" in drawn


def test_unreadable_examples_are_listed_up_to_twenty(regression: str) -> None:
    text = text_of(regression)
    assert "v200 decode: …/b.avi is cut off" in text
    assert "v219 decode" in text
    assert "v220" not in text
    assert "predictions.csv lists 3 more." in text


def test_learning_and_grid(regression: str) -> None:
    text = text_of(regression)
    assert f"Head {CHOSEN} after epoch 17 of 20 was chosen" in text
    assert "validation score, MAE 5.10 points." in text
    assert (
        f"Head Best validation MAE At epoch {CHOSEN} chosen 5.10 points 17 "
        f"{HEADS[1]} 6.25 points 17 "
        f"{DIVERGED} {DASH} {DASH}" in text
    )
    loss = figure(regression, "Loss over 20 epochs: training from 1.00 to 0.0500; validation")
    assert ">epoch<" in loss
    assert ">step<" not in loss
    scores = figure(regression, "Validation score over 20 epochs")
    assert all(head in scores for head in HEADS)


def test_many_heads_are_drawn_without_names(classification: str) -> None:
    scores = figure(classification, "Validation score")
    assert CHOSEN in scores
    assert HEADS[1] not in scores
    assert "others" in scores
    assert f"{HEADS[1]} 90.0 % 17" in text_of(classification)


def test_a_head_that_diverged_does_not_make_the_scale(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps(regression_result()))
    write_lines(tmp_path / "metrics.jsonl", epochs({CHOSEN: 5.1, HEADS[1]: 7.7e6}, -0.1))
    page = write_probe_report(tmp_path).read_text()
    assert "Errors above 1.5 times the baseline&#39;s are left out." in page
    assert "000000" not in re.sub(r"#\w{6}", "", figure(page, "Validation score"))
    assert "7,700,000 points" in page


@pytest.mark.parametrize("page", ["regression", "classification"])
def test_page_stands_alone_hides_folders_and_escapes(page, request) -> None:
    source = request.getfixturevalue(page)
    assert_stands_alone(source)
    assert "&lt;script&gt;" in source
    assert all("<script" not in svg for svg in figures(source).values())
    assert "/home/jo" not in source
    assert "/tmp" not in source


def test_classification(classification: str) -> None:
    text = text_of(classification)
    assert "view: accuracy 81.8 % (95 % interval 70.0 to 91.3 %) on 22 videos of 11" in text
    assert "45.5 % if the most common class is always predicted" in text
    assert f"; AUROC {DASH}" in text
    assert "A4C , correct but uncertain v019, A4C" in text
    assert "mean of a study" not in text
    table = "Class Examples Sensitivity Specificity Precision F1 AUROC Average precision "
    table += "A2C 10 80.0 % 100.0 % 100.0 % 88.9 % "
    assert table in text
    assert f"<script>x 2 0.0 % 100.0 % {DASH} 0.0 %" in text
    assert "Share wrong of all" in text
    drawn = figure(classification, "Confusion matrix, videos: 22 predictions of 3 classes")
    assert "&lt;script&gt;x" in drawn
    # The least probable truth: the wrong prediction that was made with most certainty.
    assert (
        "A4C instead of A2C v008, A2C, spread 1.25 A4C instead of A2C v009, A4C, spread 1.25 "
        "A4C instead of <script>x v020, A2C" in text
    )


def test_evaluation_of_a_finished_probe_has_no_curves(tmp_path: Path) -> None:
    fill_classification(tmp_path / "other")
    (tmp_path / "other" / "metrics.jsonl").unlink()
    page = write_probe_report(tmp_path / "other").read_text()
    assert "81.8 %" in page
    assert "was chosen" in page
    assert "Validation score" not in page
    assert "Best validation" not in page
    assert "Unreadable" not in page
    assert "Rejected" not in page


def test_metrics_alone_make_a_page_and_a_poor_score_is_said(tmp_path: Path) -> None:
    result = regression_result() | {"chosen": None, "study": None}
    result["test"]["scores"]["mae"] = scored(10.2)
    (tmp_path / "metrics.json").write_text(json.dumps(result))
    (tmp_path / "config.json").write_text('{"task": {"views": ["A2C", "A4C"]}}')
    page = write_probe_report(tmp_path).read_text()
    verdict = "ef: MAE 10.2 points on 200 studies of 100 patients; not better than the baseline"
    assert verdict in page
    assert 'class="verdict warn"' in page
    assert "<img" not in page
    assert "Learning" not in page


def test_no_metrics_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.json is missing"):
        write_probe_report(tmp_path)


def test_worst_without_probabilities_and_with_one_that_is_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    write_rows(path, [prediction(0, "A", "A"), prediction(1, "A", "B")])
    assert worst(read_predictions(path, "classification"), "classification", 1) == [1]
    write_rows(path, [prediction(0, 1.0, 90.0), prediction(1, 1.0, "nan")])
    assert worst(read_predictions(path, "regression"), "regression", 1) == [1]


@pytest.mark.filterwarnings("error")
def test_figures_take_any_name_a_single_point_and_a_constant_error() -> None:
    name = "$x^{ a very long name of a view that would fill the figure"
    assert "$x^{ a very long na…" in svg_of(plots.confusion([name], [name], [name, "b"]))
    assert "$x^{" in svg_of(plots.scatter([1, 2], [2, 2], [name, "b"], "", (0, 3)))
    single = svg_of(plots.bland_altman([50], [52], [""], "%"))
    assert ">2.00<" in single
    assert "1.96" not in single
    assert "1.96" not in svg_of(plots.bland_altman([50, 60], [52, 62], ["", ""], ""))


def test_many_points_become_a_bitmap() -> None:
    many = np.linspace(0, 1, plots.MAX_VECTOR_POINTS + 1)
    assert len(plots.bland_altman(many, many**2, [""] * len(many), "")) < 200_000


def svg_of(uri: str) -> str:
    return base64.b64decode(uri.split(",")[1]).decode()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.3, 1.1, 5.0, 1e4])
def test_report_of_two_steps_has_room_for_every_alarm(tmp_path: Path, value: float) -> None:
    names = ("loss", "lr", "health/effective_rank", "health/relative_error", "probe/ef/mae")
    lines = [
        {"step": step, "time": 0.0, "health/cosine_similarity": 0.9899 + 0.005 * step}
        | dict.fromkeys(names, (1 + 0.1 * step) * value)
        for step in (1, 2)
    ]
    write_lines(tmp_path / "metrics.jsonl", lines)
    page = write_report(tmp_path).read_text()
    assert "alarm above 1" in figure(page, "Error relative to the mean target")


@pytest.mark.filterwarnings("error")
def test_a_curve_that_lies_far_inside_its_zone_shows_the_edge() -> None:
    series = Series(np.array([1.0, 2.0]), np.array([50.0, 49.0]))
    panel = Panel("", {"a": series}, alarm_above=1.0, lowest=0.0)
    assert ">0<" in svg_of(plots.curves([panel], 2))
