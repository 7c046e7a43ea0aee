"""Checks that a config of transformers describes the network that is built here.

Another network often has arrays of the same names and shapes: only its config shows the difference.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from echojepa_jax.utils.errors import UserError

MODELS = {"vjepa2": "VJEPA2Model", "videomae": "VideoMAEForPreTraining"}
"""The model of each `model_type` that is read."""

# Fields of every model of transformers.
_SHARED: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu",),
    "is_causal": (False,),
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "pruned_heads": ({},),
}
# The networks that are built here, by `model_type`: the values that a field may have. Older configs
# lack some of these fields and mean the first value.
_FIXED: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "vjepa2": {
        **_SHARED,
        "layer_norm_eps": (1e-6,),
        "qkv_bias": (True,),
        "in_chans": (3,),
        "use_rope": (True,),
        "interpolate_rope": (False,),
        "pred_use_mask_tokens": (True,),
        "use_SiLU": (False,),
        "num_distillation_outputs": (1,),  # of V-JEPA 2.1; one changes nothing
    },
    "videomae": {
        **_SHARED,
        # Public files contain transformers' default, 1e-12, but were trained with 1e-6.
        "layer_norm_eps": (1e-6, 1e-12),
        "qkv_bias": (True,),
        "qv_bias": (True,),
        "num_channels": (3,),
    },
}

_SIZES: Mapping[str, frozenset[str]] = {
    "vjepa2": frozenset(
        (
            *("patch_size", "tubelet_size", "hidden_size", "num_hidden_layers"),
            *("num_attention_heads", "mlp_ratio", "pred_hidden_size", "pred_num_hidden_layers"),
            *("pred_num_attention_heads", "pred_mlp_ratio", "pred_num_mask_tokens"),
            *("frames_per_clip", "crop_size"),
        )
    ),
    "videomae": frozenset(
        (
            *("patch_size", "tubelet_size", "hidden_size", "num_hidden_layers"),
            *("num_attention_heads", "intermediate_size", "image_size", "num_frames"),
            *("decoder_hidden_size", "decoder_num_hidden_layers", "decoder_num_attention_heads"),
            *("decoder_intermediate_size", "use_mean_pooling"),
        )
    ),
}

# Fields that change nothing in a forward pass: those of a VJEPA2Config, and those that transformers
# may write for every model.
_HARMLESS = frozenset(
    (
        *("drop_path_rate", "attention_dropout", "attention_probs_dropout_prob"),
        *("hidden_dropout_prob", "initializer_range", "pred_zero_init_mask_tokens"),
        *("num_pooler_layers", "wide_SiLU", "uniform_power", "use_sdpa", "image_size"),
        *("echojepa_jax",),
        *("model_type", "model_name", "architectures", "auto_map", "transformers_version"),
        *("_name_or_path", "_attn_implementation", "_attn_implementation_autoset"),
        *("attn_implementation", "dtype", "torch_dtype", "use_bfloat16", "use_cache"),
        *("return_dict", "torchscript", "tf_legacy_loss", "output_attentions"),
        *("output_hidden_states", "chunk_size_feed_forward", "gradient_checkpointing", "id2label"),
        *("label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params"),
        *("tie_word_embeddings", "tie_encoder_decoder", "tokenizer_class", "prefix"),
        *("bos_token_id", "pad_token_id", "eos_token_id", "sep_token_id", "decoder_start_token_id"),
        *("max_length", "min_length", "do_sample", "early_stopping", "num_beams"),
        *("num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "typical_p"),
        *("repetition_penalty", "length_penalty", "no_repeat_ngram_size"),
        *("encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores"),
        *("return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id"),
        *("remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens"),
        *("begin_suppress_tokens", "norm_pix_loss"),
    )
)


def check_network(
    path: Path, config: Mapping[str, Any], is_expected: Callable[[str], bool]
) -> None:
    """Raises an error unless a config describes the network that is built here.

    Args:
      path: of the config, for the message. config: its `model_type` is one of `MODELS`.
      is_expected: whether the user has named a field with --ignore.

    Raises:
      UserError: names the fields that differ, or those that are not known. This includes unknown
        fields that are false or null: they may switch off a layer that is built here.
    """
    model = config["model_type"]
    differ = [
        f"{name} is {config[name]!r}, not {allowed[0]!r}"
        for name, allowed in _FIXED[model].items()
        if name in config and config[name] not in allowed
    ]
    if differ:
        raise UserError(
            f"{path} describes a network other than the {MODELS[model]} that this program builds: "
            f"{'; '.join(differ)}. These weights would compute something else"
        )
    known = _FIXED[model].keys() | _SIZES[model] | _HARMLESS
    unknown = [
        f"{name} = {value!r}"
        for name, value in config.items()
        if name not in known and not is_expected(name)
    ]
    if unknown:
        raise UserError(
            f"{path} has unknown fields, which may change what the network "
            f"computes: {'; '.join(unknown)}. Name those that change nothing with --ignore"
        )
