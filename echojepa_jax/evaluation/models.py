"""The models that a suite compares: encoders, random weights, and principal components of pixels.

A model turns videos into tokens. Everything else in the suite is the same for all of them.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from echojepa_jax.costs.flops import transformer
from echojepa_jax.data import manifest
from echojepa_jax.data.clips.perturbations import Perturbation
from echojepa_jax.data.clips.pipeline import Shown
from echojepa_jax.data.clips.sampling import SPREAD, ClipSpec
from echojepa_jax.data.sample import Sample
from echojepa_jax.evaluation import pixels
from echojepa_jax.features.clip_input import clip_spec
from echojepa_jax.features.encode import EncodedClips, FrozenEncoder, of_tubelets, tubelets_of
from echojepa_jax.train.load_weights import load_encoder_weights
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.files import digest_of
from echojepa_jax.utils.trees import count_parameters
from echojepa_jax.weights.pretrained import Pretrained, fingerprint

INITIAL, PCA = CONTROLS = ("initial", "pca")
"""Models that a suite makes itself: encoders with random weights, and of pixels."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What tables report about a model.

    name: in tables and of folders. about: where it comes from. fingerprint: of its numbers.
    parameters: of the encoder. tokens, width: of a clip. flops: of a clip's forward pass. places:
    tokens of a time step, which segmentation has. times: time steps of a clip. alike: equal for
    models that can share a control, by control.
    """

    name: str
    about: str
    fingerprint: str
    clip: ClipSpec
    parameters: int
    tokens: int
    width: int
    flops: float
    places: int
    times: int
    alike: Mapping[str, str] = dataclasses.field(default_factory=dict)


Encode = Callable[[Sequence[Sample], np.ndarray, Perturbation | None], Iterator[EncodedClips]]
"""(samples, which clips bool [samples, clips], perturbation) -> their tokens, in order."""

EncodeFrames = Callable[[Sequence[Sample], np.ndarray], Iterator[EncodedClips]]
"""(samples, a frame of each int [samples]) -> the tokens [B, places, D] of the tubelet that starts
with the frame, in a clip that has it, in order."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A model that is ready to encode."""

    facts: Facts
    encode: Encode
    encode_frames: EncodeFrames


@dataclasses.dataclass(frozen=True)
class HowToEncode:
    """What a suite's config says about encoding.

    frames, size, sample_by, sample_value: of clips, see `clip_input.clip_spec`. keep: see
    `encode.pooled`. dtype: of an encoder's computation. workers: processes that decode. place: of
    several clips in a video.
    """

    frames: int
    size: int
    sample_by: str
    sample_value: float
    keep: str
    dtype: str
    workers: int
    place: str = SPREAD


def names_of(paths: Sequence[str]) -> list[str]:
    """A short name for each path of weights: its last folder, with as many more as are needed.

    Raises:
      UserError: a path is named twice.
    """
    parts = [[part for part in re.split(r"[/\\]", path) if part not in ("", ".")] for path in paths]
    for count in range(1, max(map(len, parts), default=0) + 1):
        names = [_plain("-".join(words[-count:])) for words in parts]
        if len(set(names)) == len(names) and not any(map(_of_control, names)):
            return names
    if not paths:
        return []
    raise UserError(
        f"--weights names the same model twice, or uses the name of a control: {', '.join(paths)}"
    )


def _of_control(name: str) -> bool:
    return any(name == control or name.startswith(f"{control}-") for control in CONTROLS)


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name).strip(".") or "model"


def open_weights(name: str, path: str, how: HowToEncode) -> Model:
    """The encoder of a run, an export or a public file.

    Raises:
      UserError: it cannot be read, or cannot take clips of that kind.
    """
    weights = load_encoder_weights(path)
    # The path itself is left out: folders may name people and places.
    about = weights.origin.get("training", "read from files")
    return of_pretrained(name, about, weights, how)


def open_initial(name: str, path: str, of: str, how: HowToEncode, *, seed: int) -> Model:
    """Random weights of the architecture of the weights `path`, whose name in tables is `of`."""
    weights = load_encoder_weights(path)
    encoder, shape = weights.make_encoder(), weights.shape
    clips = jnp.zeros((1, shape.tubelet, shape.patch, shape.patch, 3))
    params = jax.jit(encoder.init)(jax.random.key(seed), clips)["params"]
    drawn = dataclasses.replace(weights, params={"encoder": jax.device_get(params)})
    return of_pretrained(name, f"random weights of the architecture of {of}", drawn, how)


def _clip(weights: Pretrained, how: HowToEncode) -> ClipSpec:
    clip = clip_spec(weights, how.frames, how.size, how.sample_by, how.sample_value, "clip.")
    return dataclasses.replace(clip, place=how.place)


def of_pretrained(name: str, about: str, weights: Pretrained, how: HowToEncode) -> Model:
    """A model of weights that are in memory."""
    clip = _clip(weights, how)
    params, encoder = weights.params["encoder"], weights.make_encoder()
    times, height, width = encoder.grid(clip.frames, clip.size, clip.size)
    tokens, shape = times * height * width, weights.shape

    def encode(
        samples: Sequence[Sample], only: np.ndarray, perturbation: Perturbation | None
    ) -> Iterator[EncodedClips]:
        frozen = FrozenEncoder.of(weights, how.dtype, clip, only.shape[1], how.keep)
        return frozen.encode(samples, only, workers=how.workers, perturbation=perturbation)

    def encode_frames(samples: Sequence[Sample], frames: np.ndarray) -> Iterator[EncodedClips]:
        frozen = FrozenEncoder.of(weights, how.dtype, clip, 1, "all")
        shown = Shown(frames, shape.tubelet)
        tubelets = tubelets_of(samples, clip, shown)
        for piece in frozen.encode(samples, workers=how.workers, shown=shown):
            yield of_tubelets(piece, tubelets, times)

    looks = weights.clip.mean, weights.clip.std
    look = dict(zip(("mean", "std"), map(np.array, looks), strict=True))
    facts = Facts(
        name,
        about,
        # Normalisation belongs to a model: the same parameters with another one are another model.
        fingerprint(flatten_dict(params, sep="/") | look),
        clip,
        count_parameters(params),
        tokens,
        shape.width,
        transformer(tokens, shape.width, shape.depth, shape.mlp_hidden),
        height * width,
        times,
        {
            INITIAL: digest_of([dataclasses.asdict(shape), clip.facts(), *looks]),
            PCA: digest_of([clip.facts(), shape.tubelet, shape.patch, shape.width]),
        },
    )
    return Model(facts, encode, encode_frames)


def open_pca(
    name: str, path: str, how: HowToEncode, *, folder: Path, train: Sequence[Sample]
) -> Model:
    """`of_pixels` for clips, tubelets and patches as those of the weights `path`."""
    weights = load_encoder_weights(path)
    shape = weights.shape
    sizes = shape.tubelet, shape.patch, shape.width
    return of_pixels(name, folder, train, _clip(weights, how), *sizes, how)


def of_pixels(
    name: str,
    folder: Path,
    train: Sequence[Sample],
    clip: ClipSpec,
    tubelet: int,
    patch: int,
    width: int,
    how: HowToEncode,
) -> Model:
    """Principal components of the pixels of training videos, which are kept in a file of `folder`.

    Args:
      train: the training videos. tubelet, patch: of an encoder. width: components, as many as it
        has channels.
    """
    fitted_on = manifest.fingerprint(train), clip.facts(), tubelet, patch, width
    kept = folder / f"pca-{digest_of(list(fitted_on))[:10]}.npz"
    components = pixels.fitted(kept, train, clip, tubelet, width, how.workers)
    times = clip.frames // tubelet

    def encode(
        samples: Sequence[Sample], only: np.ndarray, perturbation: Perturbation | None
    ) -> Iterator[EncodedClips]:
        return pixels.encoded(components, samples, clip, only, how.keep, perturbation, how.workers)

    def encode_frames(samples: Sequence[Sample], frames: np.ndarray) -> Iterator[EncodedClips]:
        file = kept.with_name(f"{kept.stem}-patches{kept.suffix}")
        fit = file, train, clip, tubelet, patch, width, how.workers
        of_patches, shown = pixels.fitted_patches(*fit), Shown(frames, tubelet)
        return pixels.encoded_patches(of_patches, samples, clip, shown, patch, how.workers)

    inputs, outputs = components.matrix.shape
    facts = Facts(
        name,
        f"{outputs} principal components of {tubelet} frames of {pixels.SIDE} x {pixels.SIDE} px",
        fingerprint({"mean": components.mean, "matrix": components.matrix}),
        clip,
        inputs * outputs,
        times,
        outputs,
        2.0 * times * inputs * outputs,
        (clip.size // patch) ** 2,
        times,
    )
    return Model(facts, encode, encode_frames)


def check_names(weights: Collection[str], controls: Collection[str]) -> None:
    """Raises UserError if there is nothing to compare, or a control without an encoder."""
    if not weights:
        raise UserError(
            "no model is named: name at least one with --weights, such as --weights=runs/demo"
        )
    if unknown := sorted(set(controls) - set(CONTROLS)):
        raise UserError(
            f"config field 'controls' has {unknown[0]!r}, but it must contain only "
            f"{' and '.join(map(repr, CONTROLS))}"
        )
