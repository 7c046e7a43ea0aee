"""The same training step in PyTorch, with transformers' VJEPA2Model, to compare our step with.

It has the same sizes, token counts, AdamW, moving average and precision, and uses PyTorch's own
fast paths (scaled dot product attention, `torch.compile`, fused AdamW). The context encoder sees
only its tokens, as in the original. Training does not use this module.
"""

import copy
import gc
import time
from typing import Any

import numpy as np
import torch
from ml_collections import ConfigDict
from torch.nn import functional
from transformers import VJEPA2Config, VJEPA2Model

from echojepa_jax.train.state import make_networks
from echojepa_jax.utils.errors import first_line
from echojepa_jax.weights.write import mlp_ratio

_TARGET_NORM_EPS = 1e-5


class TorchStep:
    """A step on random clips of a config, on one GPU or on the CPU: the whole global batch there.

    note: a limitation of the comparison, such as a missing compiler; "" = none.

    Args:
      device: "cuda" or "cpu".
      recompute: recompute activations in the backward pass instead of keeping them.
    """

    def __init__(
        self,
        config: ConfigDict,
        batch: dict[str, Any],
        device: str = "cpu",
        compiled: bool = True,
        recompute: bool = False,
    ) -> None:
        self.device = torch.device(device)
        torch.manual_seed(0)
        # As JAX multiplies float32 on GPUs.
        torch.set_float32_matmul_precision("high")
        self._config, self.note = config, ""
        model = _model(config)
        # Training mode: V-JEPA 2 has no dropout, and recomputation is only done in it.
        self._encoder: Any = model.encoder.to(self.device).train()
        self._predictor: Any = model.predictor.to(self.device).train()
        if recompute:
            model.gradient_checkpointing_enable()
        self._target: Any = copy.deepcopy(self._encoder).requires_grad_(False)
        trained = [*self._encoder.parameters(), *self._predictor.parameters()]
        optim = config.optim
        self._optimizer = torch.optim.AdamW(
            trained,
            lr=optim.peak_lr,
            betas=tuple(optim.betas),
            eps=optim.eps,
            weight_decay=optim.weight_decay,
            fused=self.device.type == "cuda",
        )
        # uint8 [B, T, H, W, 3] in the order of PyTorch's convolution, on the device.
        clips = torch.from_numpy(np.asarray(batch["clips"])).permute(0, 1, 4, 2, 3).contiguous()
        self._clips = clips.to(self.device)
        self._ids = [
            tuple(torch.from_numpy(np.asarray(ids)).long().to(self.device) for ids in pair)
            for pair in zip(batch["context_ids"], batch["target_ids"], strict=True)
        ]
        self._mean = torch.tensor(config.data.mean, device=self.device).view(1, 1, 3, 1, 1)
        self._std = torch.tensor(config.data.std, device=self.device).view(1, 1, 3, 1, 1)
        self._loss: Any = self._plain_loss
        if compiled:
            self._loss = torch.compile(self._plain_loss)
            try:
                self.run()
            except torch.OutOfMemoryError:
                raise
            # Inductor raises errors of its compilers, of many types.
            except Exception as error:
                reason = first_line(error, 120)
                self.note = f"torch.compile failed ({reason}): PyTorch ran without it"
                self._loss = self._plain_loss

    @classmethod
    def fitting(cls, config: ConfigDict, batch: dict[str, Any], device: str = "cpu") -> "TorchStep":
        """The fastest step that fits into memory: it keeps its activations if possible."""
        step = None
        try:
            step = cls(config, batch, device)
            step.run()
            return step
        except torch.OutOfMemoryError:
            step = None  # the rest is outside this block, so that the error releases its memory
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        step = cls(config, batch, device, recompute=True)
        step.note = f"{step.note} PyTorch recomputes activations, because memory is short".strip()
        return step

    def run(self) -> float:
        """Makes one step; returns its seconds."""
        self._wait()
        started = time.perf_counter()
        loss = self._loss()
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            momentum = self._config.optim.momentum[0]
            target, online = list(self._target.parameters()), list(self._encoder.parameters())
            torch._foreach_lerp_(target, online, 1 - momentum)
        self._wait()
        return time.perf_counter() - started

    def peak_memory(self) -> int:
        """Peak memory of the GPU, in bytes; 0 on a CPU."""
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _plain_loss(self) -> torch.Tensor:
        low = self._config.model.dtype == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            clips = (self._clips.float() / 255 - self._mean) / self._std
            with torch.no_grad():
                target = _encode(self._target, clips, None).float()
                target = functional.layer_norm(target, target.shape[-1:], eps=_TARGET_NORM_EPS)
            losses = []
            for context_ids, target_ids in self._ids:
                context = _encode(self._encoder, clips, context_ids)
                predicted = _predict(self._predictor, context, context_ids, target_ids)
                expected = _take(target, target_ids)
                losses.append((predicted.float() - expected).abs().mean())
        return torch.stack(losses).mean()


def _model(config: ConfigDict) -> VJEPA2Model:
    networks = make_networks(config)
    encoder, predictor = networks.encoder, networks.predictor
    settings = VJEPA2Config(
        patch_size=encoder.patch,
        tubelet_size=encoder.tubelet,
        crop_size=config.data.size,
        frames_per_clip=config.data.frames,
        hidden_size=encoder.width,
        num_attention_heads=encoder.heads,
        num_hidden_layers=encoder.depth,
        mlp_ratio=mlp_ratio(encoder.width, encoder.mlp_hidden),
        pred_hidden_size=predictor.width,
        pred_num_attention_heads=predictor.heads,
        pred_num_hidden_layers=predictor.depth,
        pred_num_mask_tokens=predictor.mask_tokens,
        pred_mlp_ratio=mlp_ratio(predictor.width, predictor.mlp_hidden),
    )
    model = VJEPA2Model(settings)
    assert model.config._attn_implementation == "sdpa", "PyTorch's fast attention, by default"
    return model


def _take(x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return torch.gather(x, 1, ids.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def _encode(encoder: Any, clips: torch.Tensor, ids: torch.Tensor | None) -> torch.Tensor:
    """Embeddings of all tokens, or of those at `ids`: [B, N, D]."""
    x = encoder.embeddings(clips)
    if ids is not None:
        x = _take(x, ids)
    for layer in encoder.layer:
        x = layer(x, ids)[0]
    return encoder.layernorm(x)


def _predict(
    predictor: Any, context: torch.Tensor, context_ids: torch.Tensor, target_ids: torch.Tensor
) -> torch.Tensor:
    """As in VJEPA2Predictor, but without reading the largest id, which would wait for the GPU."""
    embeddings = predictor.embeddings
    known = embeddings.predictor_embeddings(context)
    masked = embeddings.mask_tokens[0].to(known.dtype).expand(*target_ids.shape, -1)
    ids = torch.cat([context_ids, target_ids], dim=1)
    order = torch.argsort(ids, dim=1)
    x = _take(torch.cat([known, masked], dim=1), order)
    ids = torch.gather(ids, 1, order)
    for layer in predictor.layer:
        x = layer(x, ids)[0]
    x = _take(predictor.layernorm(x), torch.argsort(order, dim=1))
    return predictor.proj(x[:, context_ids.shape[1] :])
