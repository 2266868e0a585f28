"""What any `config.json` may hold beyond its family's own fields: what is inert, always or with some values, and what is not."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_HARMLESS_BY_REASON = MappingProxyType(
    {
        "where the file came from, and what libraries recorded about themselves": """
        _name_or_path name_or_path model_name _commit_hash transformers_version transformers.js_config torch_dtype dtype
        use_bfloat16 _pre_quantization_dtype torchscript unsloth_fixed unsloth_version unsloth_tracked_at is_llama_config
        tokenizer_class prefix""",
        "how to compute the same numbers, or what else to return": """
        _attn_implementation _attn_implementation_internal _attn_implementation_autoset attn_implementation use_flash_attn
        use_flash_attention use_flash_attention_2 _flash_attn_2_enabled cache_implementation use_cache pretraining_tp
        chunk_size_feed_forward gradient_checkpointing reorder_and_upcast_attn output_attentions output_hidden_states
        output_scores output_past return_dict return_dict_in_generate use_return_dict""",
        "training only": """
        initializer_range initializer_factor attention_dropout attn_dropout hidden_dropout residual_dropout embedding_dropout
        resid_dropout embd_dropout attn_pdrop resid_pdrop embd_pdrop z_loss_coefficient label_smoothing
        neftune_noise_alpha""",
        "heads for other tasks": """
        id2label label2id num_labels _num_labels problem_type finetuning_task task_specific_params tf_legacy_loss
        classifier_dropout predict_special_tokens summary_activation summary_first_dropout summary_proj_to_labels summary_type
        summary_use_proj""",
        "lengths and roles that transformers writes or reads, but no decoder of ours computes with": """
        max_sequence_length max_seq_length max_seq_len seq_length seq_len model_max_length is_decoder _sliding_window_pattern""",
        "token ids and generation defaults: the tokenizer, generation_config.json and the request decide these": """
        pad_token_id unk_token_id sep_token_id cls_token_id mask_token_id decoder_start_token_id
        forced_bos_token_id forced_eos_token_id max_length min_length do_sample early_stopping num_beams num_beam_groups
        num_return_sequences diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty
        no_repeat_ngram_size encoder_no_repeat_ngram_size encoder_repetition_penalty bad_words_ids remove_invalid_values
        suppress_tokens begin_suppress_tokens exponential_decay_length_penalty epsilon_cutoff eta_cutoff
        num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold assistant_lookbehind
        target_lookbehind""",
    }
)
HARMLESS_FIELDS = frozenset(name for names in _HARMLESS_BY_REASON.values() for name in names.split())

INERT_VALUES: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "is_encoder_decoder": (False,),
        "add_cross_attention": (False,),
        "tie_encoder_decoder": (False,),
        "use_mrope": (False,),
        "use_sliding_window": (False,),
        "rope_interleaved": (False,),
        "lm_head_bias": (False,),
        "pruned_heads": ({},),
        "n_special": (0,),
        "alibi": (False,),
        "bias": (False,),
        "parallel_attn": (False,),
        "multi_query": (False,),
        "new_decoder_architecture": (False,),
        "activation": ("swiglu", "silu"),
    }
)
"""Fields that a family which does not read them accepts with these values only: any other would mean another model."""
