"""A trained head in a folder: `probe.json` describes it, `head.safetensors` has its weights.

`head.safetensors` also holds what the training data look like (`distance.Familiar`), under names
that begin with "familiar.". If several heads of the grid are of use, `heads.safetensors` has them.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from echojepa_jax.data.clips.sampling import ClipSpec
from echojepa_jax.models.heads import Head
from echojepa_jax.probes.distance import Familiar
from echojepa_jax.probes.examples import Example
from echojepa_jax.probes.files import ABOUT, HEAD, HEADS
from echojepa_jax.probes.predict import HeadFn, with_doubt
from echojepa_jax.probes.task import Task
from echojepa_jax.train.load_weights import FINE_TUNED
from echojepa_jax.train.workdir import Workdir
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.files import whole, write_json
from echojepa_jax.weights.pretrained import Pretrained

_FAMILIAR = "familiar."
_PLAIN = ("clips", "views", "encoder", "width", "tokens", "dtype")  # fields that JSON knows


@dataclasses.dataclass(frozen=True)
class SavedProbe:
    """Everything that a prediction needs except the encoder.

    params: of the head. clip, clips: how videos are cut. views: of an example; () = a video.
    encoder: fingerprint of the weights it was trained on. width, tokens: of a clip's features.
    dtype: of the encoder's computation. trained_on: `patient_mark` of all patients in training
    and validation. thresholds: of predictions, by cut-off. familiar: what the training data look
    like; None = unknown. heads: of the grid, stacked; None = not loaded, or there is only one.
    """

    head: Head
    params: Any
    task: Task
    clip: ClipSpec
    clips: int
    views: tuple[str, ...]
    encoder: str
    width: int
    tokens: str
    dtype: str
    trained_on: frozenset[str] = frozenset()
    thresholds: Mapping[float, float] = dataclasses.field(default_factory=dict)
    familiar: Familiar | None = None
    heads: Any = None

    @property
    def applied(self) -> tuple[HeadFn, Any]:
        """What gives the outputs for an example, for each of its slots, and of `heads` if any."""
        return with_doubt(self.params, self.heads)

    def distances(self, embeddings: np.ndarray) -> np.ndarray:
        """Distance from the training data over its limit, float64 [n]; NaN if it is unknown.

        Args:
          embeddings: [n, D], see `predict.mean_tokens`.
        """
        if self.familiar is None:
            return np.full(len(embeddings), np.nan)
        return self.familiar.distances(embeddings)

    def save(self, folder: Path) -> None:
        """Writes all files."""
        flat = flatten_dict(self.params, sep=".")
        if self.familiar is not None:
            named = dataclasses.asdict(self.familiar)
            flat |= {_FAMILIAR + name: value for name, value in named.items()}
        _save_arrays(folder / HEAD, flat)
        (folder / HEADS).unlink(missing_ok=True)  # of an attempt that continued from another head
        if self.heads is not None:
            _save_arrays(folder / HEADS, flatten_dict(self.heads, sep="."))
        about = {
            "head": _fields(self.head),
            "task": dataclasses.asdict(self.task),
            "clip": self.clip.facts(),
            **{name: getattr(self, name) for name in _PLAIN},
            "trained_on": sorted(self.trained_on),
            "thresholds": list(self.thresholds.items()),
        }
        write_json(folder / ABOUT, about)


def _save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    with whole(path) as partial:
        save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, partial)
        partial.chmod(0o644)  # the library creates files that only their owner may read


def _fields(head: Head) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(head) if field.init]
    # Flax adds these two fields.
    return {name: getattr(head, name) for name in names if name not in ("parent", "name")}


def patient_mark(example: Example) -> str:
    """A hash that is equal for equal patients, and does not identify them."""
    kind = example.source.partition(":")[0]
    return hashlib.sha256(f"{kind} {example.patient}".encode()).hexdigest()[:16]


def load_probe(folder: Path, with_heads: bool = False) -> SavedProbe:
    """Loads the probe of a finished run.

    Args:
      with_heads: also load the heads of the grid.

    Raises:
      UserError: it is missing or incomplete (F08).
    """
    if not folder.exists():
        raise UserError(f"{folder} does not exist: give the --workdir of a finished probe")
    if not Workdir(folder).is_marked():
        raise UserError(
            f"{folder} does not contain a finished probe: train it to its last epoch first"
        )
    try:
        about = json.loads((folder / ABOUT).read_text())
        stored = load_file(folder / HEAD)
        flat = {name: x for name, x in stored.items() if not name.startswith(_FAMILIAR)}
        known = {n.removeprefix(_FAMILIAR): x for n, x in stored.items() if n not in flat}
        familiar = Familiar(**known) if known else None  # earlier versions wrote none
        thresholds = dict(about.get("thresholds", ()))
        there = with_heads and (folder / HEADS).exists()
        heads = unflatten_dict(load_file(folder / HEADS), sep=".") if there else None
        head = Head(**about["head"])
        task = Task(**about["task"] | {"classes": tuple(about["task"]["classes"])})
        spec = about["clip"]
        clip = ClipSpec(**spec | {name: tuple(spec[name]) for name in ("area", "aspect")})
        plain = {name: about[name] for name in _PLAIN} | {"views": tuple(about["views"])}
        trained_on = frozenset(about["trained_on"])
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} does not contain a finished probe: {ABOUT} or {HEAD} is missing"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"the probe in {folder} is damaged: {error!r}") from error
    slots = head.views * head.clips
    inputs = jnp.zeros((1, slots, 1, plain["width"])), jnp.ones((1, slots), bool)
    shapes = jax.eval_shape(head.init, jax.random.key(0), *inputs)["params"]
    expected = {name: leaf.shape for name, leaf in flatten_dict(shapes, sep=".").items()}
    found = {name: value.shape for name, value in flat.items()}
    if expected != found:
        odd = sorted({name for name, _ in expected.items() ^ found.items()})
        raise UserError(
            f"the head in {folder} is not the one that {ABOUT} describes; they differ in {odd}"
        )
    if heads is not None:
        stacked = flatten_dict(heads, sep=".")
        if {name: value.shape[1:] for name, value in stacked.items()} != expected:
            raise UserError(f"the heads in {folder / HEADS} are not those that {ABOUT} describes")
    return SavedProbe(
        *(head, unflatten_dict(flat, sep="."), task, clip),
        **plain,
        trained_on=trained_on,
        thresholds=thresholds,
        familiar=familiar,
        heads=heads,
    )


def check_encoder(probe: SavedProbe, weights: Pretrained, folder: Path, path: str) -> None:
    """Raises UserError unless these are the weights that the head was trained on."""
    found = weights.fingerprints().get("encoder", "none")
    if found != probe.encoder:
        raise UserError(
            f"the probe in {folder} was trained on an encoder with the fingerprint "
            f"{probe.encoder[:16]}, but {path} contains {found[:16]}: give the weights that it was "
            "trained on"
        )


def encoder_path(folder: Path, config: ConfigDict) -> str:
    """The path of a finished probe's encoder: fine-tuned beside it, or named in its config."""
    return str(folder) if (folder / FINE_TUNED).is_dir() else config.weights
