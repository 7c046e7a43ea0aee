"""Trains a grid of heads on features or clips; resumes from the last epoch, and keeps the best."""

import dataclasses
import logging
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from echojepa_jax.data import manifest
from echojepa_jax.data.clips.pipeline import example_batches
from echojepa_jax.data.clips.prefetch import DeviceBatches
from echojepa_jax.data.clips.sampling import NONE
from echojepa_jax.data.units import of_errors
from echojepa_jax.features.clip_input import clip_input
from echojepa_jax.models.heads import Head
from echojepa_jax.parallel import mesh as meshes
from echojepa_jax.probes import finetune
from echojepa_jax.probes import grid as grids
from echojepa_jax.probes.examples import Example, drop_views, slots
from echojepa_jax.probes.predict import (
    Features,
    Outputs,
    Videos,
    by_slot,
    encode_groups,
    encode_videos,
    encoded_head_outputs,
    head_outputs,
    rows_of,
)
from echojepa_jax.probes.task import Task, class_weights
from echojepa_jax.runtime.signals import stop_signal
from echojepa_jax.train import workdir as workdirs
from echojepa_jax.train.checkpoint import Checkpoints
from echojepa_jax.train.load_weights import FINE_TUNED
from echojepa_jax.utils.errors import UserError, first_line
from echojepa_jax.utils.metrics_writer import MetricsWriter
from echojepa_jax.utils.progress import duration, with_progress
from echojepa_jax.utils.rng import generator
from echojepa_jax.weights.pretrained import Pretrained, fingerprint
from echojepa_jax.weights.read import read_weights
from echojepa_jax.weights.write import write_weights

log = logging.getLogger(__name__)

Tree = Any


@dataclasses.dataclass(frozen=True)
class Setting:
    """Everything that is constant during a run."""

    config: ConfigDict
    workdir: Path
    videos: Videos
    task: Task
    head: Head
    grid: Sequence[grids.Cell]
    train: Sequence[Example]
    val: Sequence[Example]

    @property
    def steps(self) -> int:
        """Updates per epoch."""
        return -(-len(self.train) // self.config.optim.batch)

    @property
    def memory(self) -> float:
        """Bytes that features may take."""
        return self.config.data.cache_gb * 1e9


@dataclasses.dataclass(frozen=True)
class Best:
    """The head with the best score on the validation split.

    score: mean absolute error or minus accuracy; lower is better. heads: parameters of all heads at
    this epoch, stacked; params: of the best one. encoder: its parameters. features: of training and
    validation, if they are still in memory.
    """

    head: int
    epoch: int
    score: float
    heads: Tree
    params: Tree
    encoder: Tree
    features: Features | None


def head_shapes(setting: Setting) -> Tree:
    """The shapes of the heads' state."""
    return jax.eval_shape(lambda: _init_heads(setting))


def _init_heads(setting: Setting) -> Tree:
    key = jax.random.key(setting.config.seed)
    return grids.init_grid(setting.head, key, setting.videos.encoder.width, len(setting.grid))


def train_heads(setting: Setting) -> Best | None:
    """Trains to the last epoch; None if a signal stopped it.

    Raises:
      UserError: no head has finite outputs, or a file or checkpoint cannot be used.
    """
    config, trainable = setting.config, setting.config.encoder.trainable
    mesh = meshes.make_mesh(jax.local_devices())
    everywhere = jax.NamedSharding(mesh, jax.P())

    def fresh(encoder: Tree) -> Tree:
        state = {"heads": _init_heads(setting)}
        if trainable:
            state["encoder"] = {"params": encoder, "adam": grids.ADAM.init(encoder)}
        return state

    frozen = setting.videos.encoder.params
    state = jax.jit(fresh, out_shardings=everywhere)(frozen)
    progress = _progress(0, 0, 0, np.inf)
    with ExitStack() as stack:
        last = stack.enter_context(Checkpoints(setting.workdir / workdirs.CHECKPOINTS))
        best = stack.enter_context(Checkpoints(setting.workdir / workdirs.BEST, keep_latest=2))
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
            state | {"progress": progress},
        )
        if (restored := last.restore_latest(like)) is not None:
            progress = jax.device_get(restored.pop("progress"))
            state = restored
            log.info("continuing after epoch %d", progress["epoch"])
        first = int(progress["epoch"])
        writer = MetricsWriter(setting.workdir, first, config.log.tensorboard)
        stack.callback(writer.close)
        features = None
        if first < config.optim.epochs:
            features = features_in_memory(setting)
        # Before this line, there is nothing to save.
        stop_asked = stack.enter_context(stop_signal())
        batches = _batches(setting, features, first, stack)
        started = time.perf_counter()
        for epoch in range(first, config.optim.epochs):
            state, losses = _epoch(setting, state, batches, epoch, stop_asked)
            if losses is None:
                return None
            if not np.isfinite(losses).any():
                raise UserError(
                    f"the loss of every head is not finite in epoch {epoch + 1}: lower "
                    "optim.learning_rates, or check the labels"
                )
            encoder = state["encoder"]["params"] if trainable else frozen
            scores, val_losses = _validate(setting, state["heads"]["params"], encoder, features)
            head = int(np.lexsort((val_losses, scores))[0])
            if scores[head] < progress["best_score"]:
                progress = _progress(epoch + 1, epoch + 1, head, scores[head])
                best.save(epoch + 1, state)
                best.wait()  # the next step reuses the memory of this state
            else:
                progress = progress | {"epoch": np.int32(epoch + 1)}
            last.save(epoch + 1, state | {"progress": progress})
            last.wait()
            # The first epoch includes compilation, so its time is not used to predict the rest.
            if epoch == first:
                seconds, left = time.perf_counter() - started, ""
                started = time.perf_counter()
            else:
                seconds = (time.perf_counter() - started) / (epoch - first)
                more = config.optim.epochs - epoch - 1
                left = f"  {duration(seconds * more)} left" if more else ""
            _log(setting, writer, epoch + 1, losses, val_losses, scores, progress, seconds, left)
            if stop_asked() and epoch + 1 < config.optim.epochs:
                return None
        if not np.isfinite(progress["best_score"]):
            raise UserError(
                "no head of the grid gave finite predictions: lower optim.learning_rates, or check "
                "the labels"
            )
        shapes = {name: like[name] for name in state}
        state = _best_of(best, shapes, int(progress["best_epoch"]))
    row, heads = int(progress["best_head"]), jax.device_get(state["heads"]["params"])
    return Best(
        row,
        int(progress["best_epoch"]),
        float(progress["best_score"]),
        heads,
        jax.tree.map(lambda x: x[row], heads),
        state["encoder"]["params"] if trainable else frozen,
        features,
    )


def _best_of(best: Checkpoints, like: Tree, epoch: int) -> Tree:
    try:
        return best.restore(like, epoch)
    # Orbax and TensorStore raise errors of many types on damaged files.
    except Exception as error:
        reason = first_line(error)
        raise UserError(
            f"the best epoch, {epoch}, cannot be read from {best.folder} ({reason}): restore the "
            "folder, or train in a new --workdir"
        ) from error


def _progress(epoch: int, best_epoch: int, best_head: int, best_score: float) -> dict[str, Any]:
    return {
        "epoch": np.int32(epoch),
        "best_epoch": np.int32(best_epoch),
        "best_head": np.int32(best_head),
        "best_score": np.float32(best_score),
    }


def _takes_clips(config: ConfigDict) -> bool:
    """Whether training needs clips: they or the encoder change in every epoch."""
    return config.encoder.trainable or config.data.augment != NONE


def _equal_clips(setting: Setting) -> int:
    """How many equal clips a clip of training stands for: all, if no video has different ones."""
    if setting.config.data.augment != NONE:
        return 1
    encoder = setting.videos.encoder
    samples = [setting.videos.samples[row] for row in rows_of(setting.train)]
    return encoder.clips if encoder.repeats(samples)[:, 1:].all() else 1


def features_in_memory(setting: Setting) -> Features | None:
    """Features of training and validation; None if clips are encoded in every epoch."""
    config = setting.config
    if _takes_clips(config):
        return None
    rows = rows_of([*setting.train, *setting.val])
    needed = len(rows) * setting.videos.encoder.bytes_per_video()
    if needed > setting.memory:
        log.info(
            "features would take %.1f GB, more than data.cache_gb = %g: clips are encoded again in "
            "every epoch",
            needed / 1e9,
            config.data.cache_gb,
        )
        return None
    features = encode_videos(setting.videos, rows, "train and val")
    _refuse_unreadable(setting, features.errors, len(rows))
    return features


def _refuse_unreadable(setting: Setting, errors: dict[int, str], videos: int) -> None:
    """Lists videos that cannot be decoded in the workdir; too many are an error (F04)."""
    if not errors:
        return
    samples = setting.videos.samples
    rejected = [manifest.Rejected(samples[row], errors[row], "bad") for row in sorted(errors)]
    path = setting.workdir / workdirs.QUARANTINE
    manifest.quarantine(path, rejected, "decode")
    log.warning("%d of %d videos cannot be decoded: see %s", len(errors), videos, path)
    limit = setting.config.data.max_bad_share
    if len(errors) > limit * videos:
        raise UserError(
            f"{len(errors)} of {videos} videos cannot be decoded, more than data.max_bad_share = "
            f"{limit:g} allows; they are listed in {path}"
        )


def _weights(setting: Setting, labels: np.ndarray) -> np.ndarray:
    """The weight in the loss of examples with these encoded labels: float32 [n]."""
    if not setting.config.optim.class_weights:
        return np.ones(len(labels), np.float32)
    of_training = setting.task.encode([example.label for example in setting.train])
    return class_weights(of_training, len(setting.task.classes))[labels]


# --- batches ------------------------------------------------------------------------------------


def _order(setting: Setting, epoch: int, usable: np.ndarray) -> tuple[np.ndarray, ...]:
    """For every place in the batches of an epoch: the example (-1 = none), its samples int [., V],
    and which of its views are kept, bool [., V]."""
    rng = generator(setting.config.seed, "probe epoch", epoch)
    rows = slots(setting.train, usable, rng)
    kept = drop_views(rows >= 0, setting.config.head.view_dropout, rng)
    order = rng.permutation(len(setting.train))
    missing = setting.steps * setting.config.optim.batch - len(order)
    order = np.concatenate([order, np.full(missing, -1)])
    there = (order >= 0)[:, None]
    return order, np.where(there, rows[order], -1), kept[order] & there


def _batches(
    setting: Setting, kept: Features | None, first_epoch: int, stack: ExitStack
) -> Iterator[Tree]:
    """Batches of all epochs from `first_epoch` on, on the devices, with tokens or clips.

    A trained encoder and random crops need clips. Otherwise, tokens come from the features in
    memory, or the encoder computes them again in every epoch.
    """
    config = setting.config
    labels = setting.task.encode([example.label for example in setting.train])
    weights = _weights(setting, labels)
    sharding = meshes.batch_sharding(meshes.make_mesh(jax.local_devices()))
    usable = kept.usable() if kept else np.ones(len(setting.videos.samples), bool)
    size, clips = config.optim.batch, setting.videos.encoder.clips

    def common(order: np.ndarray, present: np.ndarray) -> Tree:
        """Labels and weights; an example without any clip has weight 0."""
        weight = ((order >= 0) & present.any(axis=1)) * weights[order]
        whole = present | ~present.any(axis=1, keepdims=True)
        return {"labels": labels[order], "weight": weight, "present": whole}

    errors = dict(kept.errors) if kept else {}
    videos = len(rows_of(setting.train))

    def note(found: Mapping[int, str]) -> None:
        """Records videos that could not be decoded."""
        if found.keys() - errors.keys():
            errors.update(found)
            _refuse_unreadable(setting, errors, videos)

    def from_features() -> Generator[Tree]:
        for epoch in range(first_epoch, config.optim.epochs):
            order, rows, views = _order(setting, epoch, usable)
            parts = [slice(start, start + size) for start in range(0, len(order), size)]
            groups = [rows[part][rows[part] >= 0].tolist() for part in parts]
            encoded = encode_groups(setting.videos, groups, what="")
            for features, part in zip(repeat(kept) if kept else encoded, parts, strict=False):
                note(features.errors)
                tokens, present = features.gather(rows[part])
                present &= by_slot(views[part], clips)
                batch = common(order[part], present) | {"tokens": tokens}
                yield jax.device_put(batch, sharding)

    def from_clips() -> Generator[Tree]:
        orders = [_order(setting, epoch, usable) for epoch in range(config.optim.epochs)]
        order, rows, views = (np.concatenate(parts) for parts in zip(*orders, strict=True))
        times = _equal_clips(setting)
        pipeline = example_batches(
            setting.videos.samples,
            rows,
            clip=setting.videos.encoder.clip,
            clips_per_sample=clips // times,
            global_batch=size,
            seed=config.seed,
            first_step=first_epoch * setting.steps,
            last_step=config.optim.epochs * setting.steps,
            augment=config.data.augment,
            workers=config.data.workers,
        )
        with DeviceBatches(pipeline, sharding) as batches:
            for step, batch in enumerate(batches, start=first_epoch * setting.steps):
                part = slice(step * size, (step + 1) * size)
                found = zip(batch["sample_ids"].flat, batch["error"].flat, strict=True)
                note({int(row): str(error) for row, error in found if error})
                valid = np.repeat(np.asarray(batch["valid"]), times, axis=1)
                present = valid & by_slot(views[part], clips)
                host = jax.device_put(common(order[part], present), sharding)
                yield host | {"clips": batch["clips"]}

    made = from_clips() if _takes_clips(config) else from_features()
    stack.callback(made.close)
    return made


# --- an epoch -----------------------------------------------------------------------------------


def _epoch(
    setting: Setting,
    state: Tree,
    batches: Iterator[Tree],
    epoch: int,
    stop_asked: Callable[[], bool],
) -> tuple[Tree, np.ndarray | None]:
    """One pass over the training split.

    Returns:
      The state after it, and the mean loss of every head [G]; None if a signal stopped it.
    """
    config, frozen = setting.config, setting.videos.encoder
    # The encoder's kernels need to know over which devices its clips are split.
    on_mesh = partial(jax.set_mesh, meshes.make_mesh(jax.local_devices()))
    updates = config.optim.epochs * setting.steps
    encoder = dataclasses.replace(
        frozen.network, drop_path=config.encoder.drop_path, remat=config.encoder.remat
    )
    settings = {
        "encoder": encoder,
        "mean_std": (frozen.mean, frozen.std),
        "keep": frozen.keep,
        "times": _equal_clips(setting),
    }
    losses = []
    for i in with_progress(range(setting.steps), setting.steps, f"epoch {epoch + 1}: updates"):
        if stop_asked():
            return state, None
        batch = next(batches)
        done = epoch * setting.steps + i
        rates = grids.rates(setting.grid, done + 1, updates)
        rng = jax.random.fold_in(jax.random.key(config.seed), done)
        if config.encoder.trainable:
            with on_mesh():
                state, loss = finetune.finetune_step(
                    state,
                    batch,
                    rng,
                    *rates,
                    **settings,
                    head=setting.head,
                    kind=setting.task.kind,
                    scale=config.encoder.lr_scale,
                    decay=config.encoder.layer_decay,
                    gamma=config.optim.focal_gamma,
                )
        else:
            if "clips" in batch:
                with on_mesh():
                    batch["tokens"] = finetune.tokens_of_slots(
                        frozen.params, batch.pop("clips"), rng, **settings
                    )
            state["heads"], loss = grids.grid_step(
                state["heads"],
                batch.pop("tokens"),
                batch,
                *rates,
                setting.head,
                setting.task.kind,
                config.optim.microbatches,
                config.optim.focal_gamma,
            )
        losses.append(loss)
    return state, np.mean(jax.device_get(losses), axis=0)


def _validate(
    setting: Setting, heads: Tree, encoder: Tree, features: Features | None
) -> tuple[np.ndarray, np.ndarray]:
    """Score (lower is better) and loss of every head on the validation split; inf if not finite."""
    examples, task = setting.val, setting.task
    outputs = all_outputs(setting, heads, examples, encoder, features, "val")
    readable = outputs.readable()
    if not readable.all():
        log.warning("%d of %d validation examples cannot be read", sum(~readable), len(readable))
    if not readable.any():
        raise UserError(
            f"none of {len(examples)} validation examples can be read: {outputs.errors[0]}"
        )
    values = outputs.values[readable]
    labels = [example.label for example, ok in zip(examples, readable, strict=True) if ok]
    coded, gamma = task.encode(labels), setting.config.optim.focal_gamma
    weights = _weights(setting, coded)
    scores, losses = [], []
    for g in range(len(setting.grid)):
        out = values[:, g]
        found = grids.example_losses(jnp.asarray(out), jnp.asarray(coded), task.kind, gamma)
        losses.append(float(jnp.sum(found * weights) / np.sum(weights)))
        decoded = task.decode(out)
        if task.kind == "regression":
            scores.append(np.abs(decoded - np.array(labels, np.float64)).mean())
        else:
            scores.append(-np.mean(decoded.argmax(axis=1) == coded))
    finite = np.isfinite(losses)
    return np.where(finite, scores, np.inf), np.where(finite, losses, np.inf)


def all_outputs(
    setting: Setting,
    heads: Tree,
    examples: Sequence[Example],
    encoder: Tree,
    features: Features | None,
    what: str,
    embed: bool = False,
) -> Outputs:
    """Outputs of stacked heads, from features in memory, or else from videos encoded once more."""
    call = grids.grid_outputs, setting.head, heads, examples
    if features is not None:
        return head_outputs(*call, features, embed)[0]
    videos = setting.videos.encoded_by(encoder)
    return encoded_head_outputs(*call, videos, setting.memory, what, embed)[0]


def _log(
    setting: Setting,
    writer: MetricsWriter,
    epoch: int,
    losses: np.ndarray,
    val_losses: np.ndarray,
    scores: np.ndarray,
    progress: dict[str, Any],
    seconds: float,
    left: str,
) -> None:
    values = {"best_val_score": abs(float(progress["best_score"])), "seconds": seconds}
    for cell, loss, val_loss, score in zip(setting.grid, losses, val_losses, scores, strict=True):
        values[f"train_loss/{cell.name}"] = float(loss)
        values[f"val_loss/{cell.name}"] = float(val_loss)
        values[f"val_score/{cell.name}"] = abs(float(score))
    writer.write(epoch, values)
    epochs, row = setting.config.optim.epochs, int(progress["best_head"])
    what = "MAE" if setting.task.kind == "regression" else "accuracy"
    unit = of_errors(setting.task.unit)
    log.info(
        "epoch %d/%d  val %s %.4g, best %.4g%s (%s at epoch %d)%s",
        epoch,
        epochs,
        what,
        abs(scores.min()),
        abs(progress["best_score"]),
        unit and f" {unit}",
        setting.grid[row].name,
        progress["best_epoch"],
        left,
    )


def keep_encoder(setting: Setting, weights: Pretrained, params: Tree) -> str:
    """Writes the fine-tuned encoder beside the probe; returns its fingerprint."""
    tuned = dataclasses.replace(
        weights,
        clip=clip_input(setting.videos.encoder.clip, weights.clip.mean, weights.clip.std),
        params={"encoder": jax.device_get(params)},
        origin={**weights.origin, "fine-tuned for": setting.task.target},
    )
    mark, folder = fingerprint(tuned.params["encoder"]), setting.workdir / FINE_TUNED
    if folder.exists():
        if read_weights(folder).fingerprints()["encoder"] == mark:
            return mark
        shutil.rmtree(folder)  # from an attempt that continued from an older checkpoint
    write_weights(tuned, folder, "orbax")
    return mark
