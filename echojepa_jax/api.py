"""The package from Python: load an encoder, embed a video or DICOM, predict with a probe.

from echojepa_jax.api import load_encoder, load_probe

encoder = load_encoder("out/encoder")
embedding = encoder.embed("heart.avi")             # float32 [width]
probe = load_probe("runs/lvef")
print(probe.predict("heart.dcm"))                  # 61.3
"""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from echojepa_jax.data import decode
from echojepa_jax.data.sample import Sample
from echojepa_jax.data.sampling import ClipSpec
from echojepa_jax.models.vit import Encoder as Network
from echojepa_jax.probes.clips import clip_spec
from echojepa_jax.probes.encode import encoded
from echojepa_jax.probes.predict import with_slots
from echojepa_jax.probes.run import encoder_path
from echojepa_jax.probes.saved import SavedProbe, check_encoder
from echojepa_jax.probes.saved import load_probe as load_saved
from echojepa_jax.train.run_weights import open_encoder
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.fields import read_config
from echojepa_jax.weights.pretrained import Pretrained

PathLike = str | Path

log = logging.getLogger(__name__)

_say = jax.jit(with_slots, static_argnums=0)


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A frozen encoder and the clips it wants."""

    weights: Pretrained = dataclasses.field(repr=False)
    network: Network
    clip: ClipSpec

    def tokens(self, path: PathLike, clips: int = 1) -> np.ndarray:
        """All tokens of clips spread over a video or DICOM, float32 [clips, N, D].

        Raises:
          UserError: the file cannot be decoded.
        """
        return self._encode(path, clips, "all")

    def embed(self, path: PathLike, clips: int = 1) -> np.ndarray:
        """The mean over the tokens of `clips` clips spread over the file, float32 [D].

        Raises:
          UserError: the file cannot be decoded.
        """
        return self._encode(path, clips, "mean").mean(axis=(0, 1))

    def _encode(self, path: PathLike, clips: int, keep: str) -> np.ndarray:
        """float32 [clips, N, W], see `probes.encode.tokens_of`."""
        try:
            facts = decode.probe(str(path))
        except decode.UnreadableVideo as error:
            raise UserError(f"{path} cannot be read: {error}") from error
        if facts.frames < 2:
            raise UserError(f"{path} is a still picture, and this is an encoder of videos")
        sample = Sample(str(path), str(path), "api", frames=facts.frames, fps=facts.fps)
        parts = list(
            encoded(
                [sample],
                self.weights.params["encoder"],
                self.network,
                clip=self.clip,
                mean=self.weights.clip.mean,
                std=self.weights.clip.std,
                clips_per_video=clips,
                keep=keep,
                clips_per_device=-(-clips // jax.local_device_count()),
            )
        )
        if any(part.padded.any() for part in parts):
            log.warning("%s is shorter than a clip's window: it ends in repeated frames", path)
        if errors := [error for part in parts for error in part.errors if error]:
            raise UserError(f"{path} cannot be decoded: {errors[0]}")
        return np.concatenate([part.tokens for part in parts])


@dataclasses.dataclass(frozen=True)
class Probe:
    """A finished probe with its encoder."""

    saved: SavedProbe = dataclasses.field(repr=False)
    encoder: Encoder

    def predict(self, video: PathLike | Mapping[str, PathLike]) -> Any:
        """What the probe says of a video, or of a study.

        Args:
          video: a file; for a probe of several views {view: file}, where views may be missing.

        Returns:
          A number in the target's unit, or {class: probability}.

        Raises:
          UserError: a file cannot be decoded, or a view is none of the probe's.
        """
        saved, views = self.saved, self.saved.views or ("",)
        if bool(saved.views) != isinstance(video, Mapping):
            wanted = f"{{view: file}} of {list(views)}" if saved.views else "one file"
            raise UserError(f"this probe takes {wanted}")
        files = dict(video) if isinstance(video, Mapping) else {"": video}
        if not files or not set(files) <= set(views):
            raise UserError(f"the views {sorted(files)} are not some of the probe's, {list(views)}")
        tokens = {
            view: self.encoder._encode(path, saved.clips, saved.tokens)
            for view, path in files.items()
        }
        blank = np.zeros_like(next(iter(tokens.values())))
        together = np.concatenate([tokens.get(view, blank) for view in views])[None]
        present = np.repeat([view in tokens for view in views], saved.clips)[None]
        said = saved.task.decode(
            np.asarray(_say(saved.head, saved.params, together, present))[0, 0]
        )
        if saved.task.kind == "regression":
            return float(said)
        return dict(zip(saved.task.classes, said.tolist(), strict=True))


def load_encoder(path: PathLike, dtype: str = "float32") -> Encoder:
    """The encoder of a run, an export, or of whatever `convert` reads.

    Args:
      dtype: of the computation, float32 or bfloat16.

    Raises:
      UserError: there is none.
    """
    weights = open_encoder(str(path))
    clip = clip_spec(weights, 0, 0, "", 0.0, "")
    return Encoder(weights, weights.make_fast_encoder(dtype), clip)


def load_probe(folder: PathLike, weights: PathLike | None = None) -> Probe:
    """A finished probe from its workdir, with the encoder that it was trained on.

    Args:
      weights: where the encoder is now; None = where it was in training.

    Raises:
      UserError: the probe is not finished, or its encoder is not there or another one.
    """
    folder = Path(folder)
    saved = load_saved(folder)
    path = str(weights or encoder_path(folder, read_config(folder / "config.json")))
    encoder = load_encoder(path, saved.dtype)
    check_encoder(saved, encoder.weights, folder, path)
    return Probe(saved, dataclasses.replace(encoder, clip=saved.clip))
