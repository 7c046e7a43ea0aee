"""The package from Python: load an encoder, embed a video or DICOM, predict with a probe, evaluate.

from echojepa_jax.api import load_encoder, load_probe, save_attention

encoder = load_encoder("out/encoder")
embedding = encoder.embed("heart.avi")             # float32 [width]
several = encoder.embed(["one.avi", "two.dcm"])    # float32 [2, width]; or arrays
probe = load_probe("runs/lvef")
print(probe.predict("heart.dcm").value)            # 61.3
save_attention(probe.attention("heart.dcm"), "heart.png", title="what the probe reads")
"""

import csv
import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from echojepa_jax.data.clips.sampling import ClipSpec
from echojepa_jax.data.clips.transforms import centre_box, cut
from echojepa_jax.data.formats import decode
from echojepa_jax.data.sample import Sample
from echojepa_jax.features.attention import AttentionMap, attention_maps, clips_of
from echojepa_jax.features.clip_input import clip_spec
from echojepa_jax.features.encode import CLIPS_PER_DEVICE, FrozenEncoder, times_of
from echojepa_jax.models.heads import Head
from echojepa_jax.probes.attention import probe_maps
from echojepa_jax.probes.distance import flag
from echojepa_jax.probes.files import METRICS, PREDICTIONS, WORST
from echojepa_jax.probes.predict import HeadFn, mean_tokens, spreads
from echojepa_jax.probes.saved import SavedProbe, check_encoder, encoder_path
from echojepa_jax.probes.saved import load_probe as load_saved
from echojepa_jax.probes.worst import read_worst
from echojepa_jax.runtime.platform import configure_jax
from echojepa_jax.train.load_weights import load_encoder_weights
from echojepa_jax.utils.config_fields import read_config
from echojepa_jax.utils.counts import counted
from echojepa_jax.utils.errors import UserError
from echojepa_jax.weights.pretrained import Pretrained

PathLike = str | os.PathLike[str]
Video = PathLike | np.ndarray

log = logging.getLogger(__name__)


@partial(jax.jit, static_argnums=(0, 1))
def _predict(
    head_fn: HeadFn, head: Head, params: Any, tokens: np.ndarray, present: np.ndarray
) -> jax.Array:
    return head_fn(head, params, tokens, present)


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A frozen encoder, with the frames, size and spacing of its clips (`clip`)."""

    weights: Pretrained = dataclasses.field(repr=False)
    frozen: FrozenEncoder

    @property
    def clip(self) -> ClipSpec:
        """How files are cut into clips."""
        return self.frozen.clip

    def tokens(self, videos: Video | Sequence[Video], clips: int = 1) -> np.ndarray:
        """Computes all tokens of one video, or of several.

        Args:
          videos: a file (video or DICOM), or a clip as an array: uint8 [T, H, W, 3], [T, H, W, 1]
            or [T, H, W], where T is `clip.frames`. For several videos: a list of files, a list of
            arrays, or an array [B, T, H, W, 3 or 1].
          clips: number of clips, spread over each file; an array is one clip.

        Returns:
          float32 [clips, N, D] for one video, [B, clips, N, D] for several: N tokens of width D.

        Raises:
          UserError: a file cannot be decoded, or an array is not a clip.
        """
        return self._encode(videos, clips, "all")

    def embed(self, videos: Video | Sequence[Video], clips: int = 1) -> np.ndarray:
        """Computes the mean over the tokens of all clips of a video.

        Args:
          videos: one or several, as in `tokens`.
          clips: number of clips, spread over each file; an array is one clip.

        Returns:
          float32 [D] for one video, [B, D] for several.

        Raises:
          UserError: a file cannot be decoded, or an array is not a clip.
        """
        return self._encode(videos, clips, "mean").mean(axis=(-3, -2))

    def attention(self, video: Video, rollout: bool = False) -> list[AttentionMap]:
        """Maps the attention of the encoder's last layer over a clip, averaged over its heads.

        Args:
          video: a file, or a clip as an array: uint8 [T, H, W, 3], [T, H, W, 1] or [T, H, W]. Of a
            file it takes the clip in the middle.
          rollout: also follow attention through all layers.

        Returns:
          Maps with a name, the frames, and `values`, float32 [T', Hp, Wp] (time steps, rows and
          columns of tokens): the attention of each token, where 1 is uniform attention. See
          `features.attention.maps_of`.

        Raises:
          UserError: a file cannot be decoded, or an array is not a clip.
        """
        return attention_maps(self.frozen, self._clips(video)[0], rollout)

    def _clips(self, video: Video) -> np.ndarray:
        """uint8 [clips, T, size, size, 3], as the encoder sees them; an array is one clip."""
        if isinstance(video, str | os.PathLike):
            return clips_of(self.frozen, _sample_of(video))
        return self._clip_of(np.asarray(video))[None]

    def _encode(self, videos: Video | Sequence[Video], clips: int, keep: str) -> np.ndarray:
        """float32 [clips, N, W] or [B, clips, N, W], see `features.encode.tokens_of`."""
        if isinstance(videos, str | os.PathLike):
            return self._encode_files([videos], clips, keep)[0]
        if not isinstance(videos, Sequence):
            array = np.asarray(videos)
            names = array.dtype.kind in "OU" and array.ndim == 1  # such as a column of a table
            if array.ndim != 5 and not names:
                return self._encode_arrays([array], clips, keep)[0]
            videos = list(array)
        if not len(videos):
            raise UserError("the list of videos is empty: name at least one")
        named = [isinstance(video, str | os.PathLike) for video in videos]
        if all(named):
            return self._encode_files([str(video) for video in videos], clips, keep)
        if any(named):
            raise UserError(
                "a list must contain either files or arrays, not both: encode them in two calls"
            )
        return self._encode_arrays([np.asarray(video) for video in videos], clips, keep)

    def _encode_files(self, paths: Sequence[PathLike], clips: int, keep: str) -> np.ndarray:
        """float32 [B, clips, N, W]."""
        if clips < 1:
            raise UserError(f"clips={clips} must be positive")
        samples = [_sample_of(path) for path in paths]
        encoder = dataclasses.replace(self.frozen, clips=clips, keep=keep)
        repeats = encoder.repeats(samples)
        count = int(np.count_nonzero(~repeats))
        at_a_time = min(CLIPS_PER_DEVICE, -(-count // jax.local_device_count()))
        parts = list(encoder.encode(samples, only=~repeats, clips_per_device=at_a_time))
        for part in parts:
            for row, padded, error in zip(part.rows, part.padded, part.errors, strict=True):
                if error:
                    raise UserError(f"{paths[row]} cannot be decoded: {error}")
                if padded:
                    log.warning(
                        "%s is shorter than a clip's window: it ends in repeated frames", paths[row]
                    )
        tokens = np.concatenate([part.tokens for part in parts])
        tokens = np.repeat(tokens, times_of(repeats), axis=0)
        return tokens.reshape(len(samples), clips, *tokens.shape[1:])

    def _encode_arrays(self, arrays: Sequence[np.ndarray], clips: int, keep: str) -> np.ndarray:
        """float32 [B, 1, N, W]."""
        if clips != 1:
            raise UserError(
                f"clips={clips} needs files, because an array is one clip: leave it out for arrays"
            )
        encoder = dataclasses.replace(self.frozen, keep=keep)
        return encoder.encode_arrays(np.stack([self._clip_of(array) for array in arrays]))[:, None]

    def _clip_of(self, array: np.ndarray) -> np.ndarray:
        """uint8 [T, size, size, 3], resized and cropped at the centre as files are."""
        frames, size = self.clip.frames, self.clip.size
        grey = array[..., None] if array.ndim == 3 else array
        if grey.ndim != 4 or grey.shape[0] != frames or grey.shape[3] not in (1, 3):
            raise UserError(
                f"an array of shape {list(array.shape)} is not a clip for this encoder; it takes "
                f"[{frames}, H, W, 3], [{frames}, H, W, 1] or [{frames}, H, W], or several of them "
                f"as [B, {frames}, H, W, 3 or 1]"
            )
        if array.dtype != np.uint8:
            raise UserError(
                f"an array of {array.dtype} is not a clip: give uint8 pixels, 0 to 255, which the "
                "encoder normalises"
            )
        out = np.empty((frames, size, size, grey.shape[3]), np.uint8)
        height, width = grey.shape[1:3]
        cut(grey, centre_box(height, width, self.clip.centre), out)
        return np.broadcast_to(out, (frames, size, size, 3))


def _sample_of(path: PathLike) -> Sample:
    """The sample of a file, with its frames and frame rate.

    Raises:
      UserError: it cannot be read, or is a still image.
    """
    try:
        facts = decode.probe(str(path))
    except decode.UnreadableVideo as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if facts.frames < 2:
        raise UserError(f"{path} is a still image, but this encoder takes videos")
    return Sample(str(path), str(path), "api", frames=facts.frames, fps=facts.fps)


class Prediction(NamedTuple):
    """What a probe predicts for an example, and how far to trust it.

    Attributes:
      value: a number in the target's unit, or {class: probability}.
      spread: standard deviation over the clips (and views) of the number, or of the probability of
        the most probable class; None if there is only one clip, or if clips do not differ.
      spread_heads: the same over the heads of the grid that beat a constant guess; None if the
        probe keeps only one.
      flag: "far" if the example is further from the training data than usual, else "near"; "" for
        a probe of an earlier version, which did not record its training data.
    """

    value: Any
    spread: float | None
    spread_heads: float | None
    flag: str


@dataclasses.dataclass(frozen=True)
class Probe:
    """A finished probe with its encoder."""

    saved: SavedProbe = dataclasses.field(repr=False)
    encoder: Encoder

    def predict(self, video: PathLike | Mapping[str, PathLike]) -> Prediction:
        """Predicts for a video, or for a study.

        Args:
          video: a file. For a probe of several views: {view: file}, where views may be missing.

        Raises:
          UserError: a file cannot be decoded, or a view is not one of the probe's.
        """
        saved, views = self.saved, self.saved.views or ("",)
        files = self._files(video)
        tokens = {
            view: self.encoder._encode(path, saved.clips, saved.tokens)
            for view, path in files.items()
        }
        blank = np.zeros_like(next(iter(tokens.values())))
        together = np.concatenate([tokens.get(view, blank) for view in views])[None]
        present = np.repeat([view in tokens for view in views], saved.clips)[None]
        head_fn, params = saved.applied
        outputs = np.asarray(_predict(head_fn, saved.head, params, together, present))
        decoded = saved.task.decode(outputs)
        value: Any = decoded[0, 0].tolist()
        if saved.task.kind == "classification":
            value = dict(zip(saved.task.classes, value, strict=True))
        # A video that is too short for clips that differ has exactly equal tokens.
        repeats = np.append(False, (together[0, 1:] == together[0, :-1]).all(axis=(1, 2)))
        found = (float(of[0]) for of in spreads(decoded, present & ~repeats))
        over_clips, over_heads = (None if np.isnan(x) else x for x in found)
        distance = float(saved.distances(mean_tokens(together, present))[0])
        return Prediction(value, over_clips, over_heads, flag(distance))

    def attention(self, video: PathLike | Mapping[str, PathLike]) -> list[AttentionMap]:
        """Maps which tokens the probe reads when it predicts, averaged over the heads of its query.

        Args:
          video: as in `predict`.

        Returns:
          A map for each clip, see `Encoder.attention`.

        Raises:
          UserError: as in `predict`; or the probe has no attention over single tokens.
        """
        encoder = dataclasses.replace(self.encoder.frozen, clips=self.saved.clips, keep="all")
        clips = {
            view: clips_of(encoder, _sample_of(file)) for view, file in self._files(video).items()
        }
        return probe_maps(self.saved, encoder, clips)[1]

    def _files(self, video: PathLike | Mapping[str, PathLike]) -> dict[str, PathLike]:
        """The files of an example by view; "" for a probe of single videos."""
        saved, views = self.saved, self.saved.views or ("",)
        if not isinstance(video, Mapping if saved.views else str | os.PathLike):
            wanted = f"{{view: file}} of {list(views)}" if saved.views else "one file at a time"
            raise UserError(f"this probe takes {wanted}, not {type(video).__name__}")
        files: dict[str, PathLike] = dict(video) if isinstance(video, Mapping) else {"": video}
        if not files or not set(files) <= set(views):
            raise UserError(
                f"the views must be some of the probe's, {list(views)}, not {sorted(files)}"
            )
        return files


def load_encoder(path: PathLike, dtype: str = "float32") -> Encoder:
    """Loads the encoder of a run, of an export, or of anything that `convert` reads.

    Args:
      path: the run, the export, or the file of weights; also gs:// and s3://.
      dtype: type of the computation, float32 or bfloat16.

    Raises:
      UserError: the path does not contain an encoder that can be read.
    """
    weights = load_encoder_weights(str(path))
    return Encoder(weights, FrozenEncoder.of(weights, dtype, clip_spec(weights)))


def load_probe(folder: PathLike, weights: PathLike | None = None) -> Probe:
    """Loads a finished probe from its workdir, with the encoder that it was trained on.

    Args:
      folder: the workdir of the probe.
      weights: where the encoder is now; None = the path used in training.

    Raises:
      UserError: the probe is not finished, or its encoder is missing or has changed.
    """
    folder = Path(folder)
    saved = load_saved(folder, with_heads=True)
    path = str(weights or encoder_path(folder, read_config(folder / "config.json")))
    encoder = load_encoder(path, saved.dtype)
    check_encoder(saved, encoder.weights, folder, path)
    frozen = dataclasses.replace(encoder.frozen, clip=saved.clip)
    return Probe(saved, dataclasses.replace(encoder, frozen=frozen))


class Case(NamedTuple):
    """A test example of a probe.

    Attributes:
      name: of the video or the study, as `id` in predictions.csv.
      view: as in predictions.csv.
      true, predicted: numbers in the target's unit, or classes.
      picture: frames of the video's first second side by side, uint8 [h, w, 3].
    """

    name: str
    view: str
    true: float | str
    predicted: float | str
    picture: np.ndarray


def worst_and_best(folder: PathLike) -> tuple[list[Case], list[Case]]:
    """Reads the test examples that a finished probe predicts worst and best, as in its report.

    Args:
      folder: the workdir of the probe, or of its scores on other data (`--eval_only`).

    Returns:
      Two lists: at most 12 cases, the worst first; and at most 4 cases, the best first. Videos that
      could not be decoded are left out.

    Raises:
      UserError: the probe is not finished.
    """
    folder = Path(folder)
    if not (folder / METRICS).exists():
        raise UserError(f"{folder / METRICS} is missing: finish the probe run, which writes it")
    task = read_config(folder / METRICS).task
    value = float if task.kind == "regression" else str
    with (folder / PREDICTIONS).open(newline="", encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if line["status"] == "ok"]

    def case(row: int, picture: np.ndarray) -> Case:
        line = lines[row]
        told = value(line["target"]), value(line["prediction"])
        return Case(line["id"], line["view"], *told, picture)

    worst, best = ([case(*strip) for strip in strips] for strips in read_worst(folder / WORST))
    return worst, best


def save_attention(maps: Sequence[AttentionMap], file: PathLike, title: str = "") -> None:
    """Draws attention maps over the frames of their clips: a row for each map.

    Args:
      file: a picture, such as maps.png or maps.svg.

    Raises:
      UserError: there are no maps, or the file cannot be written.
    """
    from echojepa_jax.report.attention_pictures import draw
    from echojepa_jax.report.plots import save

    if not maps:
        raise UserError("there are no maps to draw: give the result of `attention`")
    save(draw(maps, title), Path(file))


def map_embeddings(
    folder: PathLike,
    file: PathLike,
    colours: Sequence[str] = ("view",),
    method: str = "pca",
    labels: PathLike | None = None,
) -> str:
    """Draws a map of the embeddings of `embed`: a point for each video, a panel for each colour.

    Args:
      folder: of the embeddings.
      file: a picture, such as map.png or map.svg.
      colours: labels: view, source, split, study, patient, a column of `labels`, or a label of the
        sources that the embeddings were made from.
      method: "pca" or "umap".
      labels: a CSV file with labels and a column name, study or patient.

    Returns:
      A sentence; for classes, with the silhouette and the accuracy of logistic regression.

    Raises:
      UserError: there are no such embeddings or labels, umap-learn is missing, or the file cannot
        be written.
    """
    from echojepa_jax.report.embedding_pictures import write_map

    return write_map(Path(folder), colours, Path(file), method, Path(labels) if labels else None)


def evaluate(config: ConfigDict, workdir: PathLike) -> str:
    """Runs an evaluation suite in a workdir, or continues it.

    Args:
      config: the suite, such as `get_config()` of configs/evaluation/phantom.py, with the models
        in `config.weights`.
      workdir: folder of features, results and tables.

    Returns:
      A sentence on what is complete, with the path of the report.

    Raises:
      UserError: a field is impossible, or weights, data or labels cannot be used.
    """
    from echojepa_jax.evaluation import config as configs
    from echojepa_jax.evaluation import suite
    from echojepa_jax.report.evaluation_page import REPORT, write_evaluation_report

    configure_jax()
    config, left_out = configs.used(config)
    configs.check(config)
    workdir = Path(workdir)
    report = workdir / REPORT
    with suite.claimed(workdir, config):
        made_of = suite.opened(config, workdir)
        if suite.is_done(workdir, made_of):
            return f"{workdir} is complete: nothing to do. The report is {report}"
        result = suite.run(config, workdir, made_of, left_out)
        write_evaluation_report(workdir, result)
        suite.mark_done(workdir, made_of, [suite.MARKDOWN, suite.CSV, suite.LATEX, REPORT])
    done = f"{counted(len(result.rows), 'task')}, {counted(len(result.models), 'model')}"
    return f"complete: {done}. The report is {report}"
