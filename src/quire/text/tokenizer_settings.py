"""Reads tokenizer_config.json and special_tokens_map.json through an allow-list, as `models.config_file` reads config.json.

Every field is honored, known to change no token, or refused by its name. What a field means is what `AutoTokenizer` of
transformers 5 makes of it where a tokenizer.json exists: most settings of slow tokenizers then have no effect.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from quire.errors import UnsupportedConfigError

_log = logging.getLogger("quire")

_HONORED = """
    added_tokens_decoder additional_special_tokens extra_special_tokens model_specific_special_tokens add_prefix_space
    split_special_tokens chat_template chat_control_tokens clean_up_tokenization_spaces fix_mistral_regex"""

_HARMLESS_BY_REASON = MappingProxyType(
    {
        "where the files came from, and which classes of other libraries read them": """
        tokenizer_class tokenizer_type slow_tokenizer_class tokenizer_file vocab_file merges_file spm_file vocab merges
        special_tokens_map_file processor_class feature_extractor_type image_processor_type video_processor_type model_type
        config_class backend is_local local_files_only name_or_path _name_or_path _commit_hash files_loaded init_inputs
        from_slow use_fast verbose transformers_version tokenizers_version tokenizer_version version revision
        added_tokens_file special_dtypes device_map license""",
        "lengths, padding, truncation and tensors: a prompt is never padded, and never cut in silence": """
        model_max_length max_len max_length max_model_input_sizes pretrained_init_configuration padding padding_side truncation
        truncation_side truncation_strategy stride pad_to_multiple_of pad_token_type_id model_input_names
        return_token_type_ids return_attention_mask return_tensors deprecation_warnings max_new_tokens""",
        "for slow tokenizers and their conversion: tokenizer.json holds the result": """
        sp_model_kwargs legacy legacy_behaviour errors spaces_between_special_tokens use_default_system_prompt trim_offsets
        unk_id bos_id eos_id pad_id extra_ids vocab_size byte_fallback fuse_unk add_dummy_prefix tokenize_chinese_chars
        never_split wordpieces_prefix do_basic_tokenize remove_extra_whitespaces""",
        "tokenizer.json's post-processor decides which tokens a text begins and ends with": "add_bos_token add_eos_token",
        "token ids: the files' tokens and eos_token_id of generation_config.json or config.json decide": """
        bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id cls_token_id mask_token_id image_token_id""",
        "for images, sounds and videos, which this engine does not read": """
        image_seq_length image_size patch_size num_image_tokens vision_feature_select_strategy num_additional_image_tokens
        image_mean image_std audio_seq_length""",
        "what other programs make of answers and defaults of theirs": """
        response_template response_schema tool_parser_type tool_call_parser reasoning_parser do_sample temperature top_p top_k
        repetition_penalty default_system_prompt generation_config language task""",
    }
)
_HARMLESS = frozenset(name for names in _HARMLESS_BY_REASON.values() for name in names.split())
_HARMLESS_PREFIXES = ("unsloth_", "axolotl_", "mlx_", "transformers.js")
_KNOWN = frozenset(_HONORED.split()) | _HARMLESS

_KEEPS_TOKENIZER_JSON = frozenset({"phi3", "mistral", "olmo2"})
"""Model types whose tokenizer.json is used as it is, whatever `tokenizer_class` says."""
_CLASS_OF_MODEL_TYPE = MappingProxyType(
    {"gpt2": "GPT2Tokenizer", "qwen2": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer", "gemma3_text": "GemmaTokenizer"}
)
_CLASSES_WITH_PREFIX_SPACE = frozenset({"GPT2Tokenizer", "Qwen2Tokenizer", "LlamaTokenizer"})
_LLAMA = "LlamaTokenizer"
_TOKENS_OF_CLASS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "GPT2Tokenizer": MappingProxyType(dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")),
        "Qwen2Tokenizer": MappingProxyType(dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>")),
        _LLAMA: MappingProxyType({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
        "GemmaTokenizer": MappingProxyType({f"{name}_token": f"<{name}>" for name in ("bos", "eos", "unk", "pad", "mask")}),
    }
)
"""The named tokens of a class of transformers where no file names others."""


def refuse_unknown(file_name: str, settings: Mapping[str, Any]) -> None:
    """Raises UnsupportedConfigError for fields neither honored nor harmless; what is null, false or empty asks for nothing."""
    if settings.get("auto_map"):
        _log.warning("%s: auto_map is ignored: code of a model directory never runs, and tokenizer.json counts", file_name)
    unknown = [name for name, value in settings.items() if value not in (None, False, "", [], {}) and not _is_known(name, value)]
    if unknown:
        raise UnsupportedConfigError(
            f"{file_name} holds fields that Quire does not know",
            given=", ".join(f"{name}={settings[name]!r}"[:80] for name in sorted(unknown)[:8]),
            next_step="Ignoring a field could change the tokens: report the field, or remove it if it has no effect.",
        )


def flag(file_name: str, settings: Mapping[str, Any], name: str) -> bool | None:
    """Returns a field that is true, false or absent (None, as null); raises UnsupportedConfigError for anything else."""
    value = settings.get(name)
    if value is not None and not isinstance(value, bool):
        raise UnsupportedConfigError(
            f"{file_name}: {name} must be true or false", given=repr(value)[:80], next_step="Restore the original file."
        )
    return value


def prefix_space(settings: Mapping[str, Any], model_type: object) -> bool | None:
    """Returns what add_prefix_space asks for, or None where tokenizer.json decides.

    As in transformers, only the classes that build their tokenizer themselves look at it, and null is as good as absent.
    """
    wanted = flag("tokenizer_config.json", settings, "add_prefix_space")
    return wanted if _class_of(settings, model_type) in _CLASSES_WITH_PREFIX_SPACE else None


def class_tokens(settings: Mapping[str, Any], model_type: object, *, is_byte_level: bool) -> Mapping[str, str]:
    """Returns the named tokens that the tokenizer's class has where no file says anything of them."""
    name = _class_of(settings, model_type)
    return {} if name == _LLAMA and is_byte_level else _TOKENS_OF_CLASS.get(name, {})


def _class_of(settings: Mapping[str, Any], model_type: object) -> str:
    """Returns the class that transformers builds the tokenizer with; "" where it takes tokenizer.json as it is."""
    name = str(settings.get("tokenizer_class") or "").removesuffix("Fast")
    if model_type == "qwen2" or not name:
        name = _CLASS_OF_MODEL_TYPE.get(str(model_type), name)
    return "" if model_type in _KEEPS_TOKENIZER_JSON else name


def _is_known(name: str, value: object) -> bool:
    is_named_token = name.endswith("_token") and isinstance(value, (str, Mapping))
    return name in _KNOWN or name == "auto_map" or is_named_token or name.startswith(_HARMLESS_PREFIXES)
