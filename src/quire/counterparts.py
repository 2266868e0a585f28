"""What other engines call our options, and what they have that we do not: so that an unknown name is answered with ours.

A counterpart is written `LLM.max_context`, `SamplingParams.max_tokens` or `generate.use_tqdm`; the command line spells the first
two `--max-context` and `--max-tokens`. The names are those of vLLM, llama.cpp and its Python binding, Ollama, transformers
and OpenAI's API.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType

LLM, SAMPLING, COMMAND = "LLM", "SamplingParams", "run"

_RENAMED: Mapping[str, str] = MappingProxyType(
    {
        "LLM.max_context": "max_model_len n_ctx num_ctx ctx_size ctx c context context_length context_size max_seq_len "
        "max_seq_length max_context_len max_position_embeddings max_seq_len_to_capture",
        "LLM.kv_memory": "gpu_memory_utilization num_gpu_blocks_override kv_cache_memory kv_cache_memory_bytes cache_memory",
        "LLM.kv_format": "kv_cache_dtype type_k type_v cache_type_k cache_type_v ctk ctv kv_dtype cache_dtype",
        "LLM.kv_cache": "use_cache use_kv_cache",
        "LLM.prefix_cache": "enable_prefix_caching no_enable_prefix_caching prefix_caching cache_prompt",
        "LLM.max_num_batched_tokens": "n_batch n_ubatch num_batch batch_size ubatch_size b ub chunk_size prefill_chunk_size "
        "max_prefill_tokens chunked_prefill_size long_prefill_token_threshold enable_chunked_prefill",
        "LLM.max_num_seqs": "n_parallel n_seq_max parallel np max_running_requests max_batch_size",
        "LLM.threads": "n_threads num_threads n_threads_batch threads_batch num_thread cpu_threads t tb intra_op_num_threads",
        "LLM.dtype": "torch_dtype load_dtype weight_dtype",
        "LLM.quantize": "quantization quantization_config load_in_8bit load_in_4bit quant",
        "LLM.calibrate": "imatrix importance_matrix calibration calibration_dataset calibration_data",
        "LLM.executor": "device device_map backend distributed_executor_backend attn_implementation attention_backend",
        "LLM.model": "model_path model_name model_id model_name_or_path pretrained_model_name_or_path hf_repo hfr hf repo_id "
        "mm path revision code_revision model_tag",
        "LLM.on_progress": "progress_callback progress",
        "SamplingParams.n": "num_return_sequences num_completions num_samples n_completions",
        "SamplingParams.max_tokens": "max_new_tokens n_predict num_predict max_completion_tokens max_output_tokens max_length "
        "max_gen_len num_tokens predict length",
        "SamplingParams.min_tokens": "min_new_tokens min_length",
        "SamplingParams.temperature": "temp do_sample greedy",
        "SamplingParams.top_k": "topk",
        "SamplingParams.top_p": "topp",
        "SamplingParams.min_p": "minp",
        "SamplingParams.seed": "random_seed rng_seed generator",
        "SamplingParams.repetition_penalty": "repeat_penalty",
        "SamplingParams.stop": "stop_strings stop_sequences stop_words stopping_criteria reverse_prompt antiprompt",
        "SamplingParams.stop_token_ids": "eos_token_id eos_token_ids stop_ids stop_token",
        "SamplingParams.bad_words": "bad_words_ids banned_strings",
        "SamplingParams.logit_bias": "suppress_tokens sequence_bias",
        "SamplingParams.logprobs": "top_logprobs n_probs output_scores output_logits return_logprob",
        "SamplingParams.prompt_logprobs": "echo logits_all return_full_text",
        "SamplingParams.include_stop_str_in_output": "no_stop_trim",
        "generate.priority": "priority priorities scheduling_policy",
        "generate.use_tqdm": "use_tqdm show_progress progress_bar tqdm",
        "LLM.stream": "stream streamer stream_interval",
        "LLM.chat": "messages tools tool_choice chat_template_kwargs reasoning_effort conversation cnv interactive i",
        "LLM.score": "return_loss perplexity",
        "LLM.block_size": "page_size",
        "LLM.packed_cache": "repack_cache",
        "LLM.itl_target": "max_itl target_itl tpot_target",
        "SamplingParams.allowed_token_ids": "prefix_allowed_tokens_fn",
        "SamplingParams.ignore_eos": "",
        "SamplingParams.presence_penalty": "",
        "SamplingParams.frequency_penalty": "",
        "SamplingParams.skip_special_tokens": "",
        "run.prompt": "prompt p f file input",
        "run.system": "system_prompt sys system_message instructions",
        "run.stats": "show_timings timings perf",
        "run.json": "output_format format",
        "run.raw": "no_chat_template skip_chat_template no_cnv no_conversation",
    }
)

_NOTES: Mapping[str, str] = MappingProxyType(
    {
        "gpu_memory_utilization": "kv_memory is a size such as 2GiB, not a share of the memory",
        "enable_prefix_caching": "prefix_cache is on or off",
        "enable_chunked_prefill": "long prompts are always computed in chunks of at most max_num_batched_tokens",
        "use_cache": 'kv_cache is "paged" or "off"',
        "load_in_8bit": 'write quantize="int8"',
        "load_in_4bit": 'write quantize="int4"',
        "do_sample": "temperature 0 takes the likeliest token, above 0 it draws",
        "max_length": "max_tokens counts the tokens of the answer alone",
        "min_length": "min_tokens counts the tokens of the answer alone",
        "bad_words_ids": "bad_words takes texts; a logit_bias of -100 keeps single tokens out",
        "suppress_tokens": "a bias of -100 keeps a token out",
        "revision": "write org/name@revision",
        "device": "auto chooses the fastest there is",
        "device_map": "auto chooses the fastest there is",
        "top_logprobs": "it takes the number of tokens at each position",
        "echo": "it scores the prompt; the prompt itself is in the output",
    }
)

_ABSENT: Mapping[str, str] = MappingProxyType(
    {
        "the model runs in one process on this machine": "tensor_parallel_size pipeline_parallel_size data_parallel_size "
        "enable_expert_parallel worker_cls ray_workers_use_nsight disable_custom_all_reduce tp tp_size dp_size main_gpu "
        "tensor_split split_mode numa rpc_servers nnodes node_rank",
        "weights stay in the computer's memory and are not split between devices": "n_gpu_layers gpu_layers num_gpu ngl mg "
        "cpu_offload_gb offload_kqv offload_folder max_memory low_vram",
        "no code from a model directory is ever run": "trust_remote_code",
        "nothing is compiled or captured when a model starts": "enforce_eager compilation_config cuda_graph_sizes "
        "disable_cuda_graph torch_compile",
        "a preempted request is computed again, and mostly from the cache": "swap_space preemption_mode",
        "the tokenizer always comes from the model's directory or GGUF file": "tokenizer tokenizer_mode tokenizer_revision "
        "skip_tokenizer_init use_fast tokenizer_path",
        "weights are read from safetensors or GGUF files, mapped or packed as the executor needs them": "load_format use_mmap "
        "use_mlock mlock no_mmap low_cpu_mem_usage use_safetensors vocab_only state_dict",
        "pass the path of the .gguf file as the model": "gguf_file",
        "the Hugging Face cache is where HF_HOME says": "download_dir cache_dir",
        "log in with `hf auth login`": "hf_token token use_auth_token",
        "set QUIRE_OFFLINE=1 to use only what is there already": "local_files_only offline",
        "attention is always computed tile by tile": "flash_attn use_flash_attention use_flash_attention_2 fa",
        "the model's own config.json decides": "hf_overrides rope_scaling rope_theta rope_freq_base rope_freq_scale "
        "yarn_ext_factor override_kv model_impl config_format",
        "adapters are not applied: merge them into the weights first": "enable_lora lora_path lora_request lora max_loras "
        "max_lora_rank lora_modules lora_base",
        "text models only": "limit_mm_per_prompt mm_processor_kwargs mmproj clip_model_path modalities image",
        "every answer takes one path through the model": "num_beams num_beam_groups use_beam_search beam_width length_penalty "
        "early_stopping diversity_penalty best_of penalty_alpha",
        "tokens are not guessed ahead": "speculative_config speculative_model num_speculative_tokens draft_model model_draft "
        "draft assistant_model prompt_lookup_num_tokens num_assistant_tokens speculate",
        "answers are not held to a grammar, a schema or a choice": "guided_decoding guided_json guided_regex guided_choice "
        "guided_grammar structured_outputs response_format grammar grammar_file json_schema guided_decoding_backend",
        "the filters are top_k, top_p and min_p": "typical_p typical tfs_z tfs top_a mirostat mirostat_tau mirostat_eta "
        "mirostat_mode epsilon_cutoff eta_cutoff top_h xtc_probability xtc_threshold dry_multiplier samplers dynatemp_range "
        "logits_processor logits_processors guidance_scale custom_params",
        "the penalties are repetition_penalty, presence_penalty and frequency_penalty": "no_repeat_ngram_size repeat_last_n "
        "encoder_repetition_penalty penalize_nl penalize_newline exponential_decay_length_penalty last_n_tokens_size",
        "a prompt is never shortened": "truncate_prompt_tokens truncation n_keep keep num_keep context_shift",
        "an output always holds the text and the token ids": "detokenize output_kind return_dict_in_generate "
        "spaces_between_special_tokens flat_logprobs return_tensors skip_prompt return_dict suffix",
        "no padding is ever needed": "pad_token_id padding padding_side",
        "the model's template and the tokens of a prompt decide": "forced_bos_token_id forced_eos_token_id bos_token_id "
        "add_special_tokens add_generation_prompt decoder_start_token_id",
        "the chat template is the model's own": "chat_template chat_format chat_handler jinja",
        "nothing is printed or logged unless it is asked for": "verbose v disable_log_stats disable_log_requests log_level "
        "log_file log_disable",
    }
)


@dataclass(frozen=True, slots=True)
class Counterpart:
    """Our answer to another engine's name: what we call it, or None and why there is nothing; `note` says what differs."""

    name: str | None
    note: str | None

    @property
    def home(self) -> str | None:
        """Where the name belongs: `LLM`, `SamplingParams`, a method, or the command line."""
        return None if self.name is None else self.name.partition(".")[0]

    @property
    def own_name(self) -> str | None:
        """The name without its home."""
        return None if self.name is None else self.name.partition(".")[2]


def counterpart_of(name: str) -> Counterpart | None:
    """Returns our answer to a name, in Python's spelling; None for one that no engine we know has."""
    return _COUNTERPARTS.get(name.lower())


def advice_for(name: str, own_names: Collection[str], home: str) -> str:
    """Returns the next step for an option that `home` (`LLM` or `SamplingParams`) lacks: our name, why not, or all names."""
    found = counterpart_of(name)
    if found is not None and found.name is None:
        return f"Leave it out: it has no counterpart here, {found.note}."
    if found is not None and found.home != COMMAND:
        note = "" if found.note is None else f"; {found.note}"
        if found.own_name in own_names:
            return f"Quire calls it {found.own_name}{note}."
        return f"Use {found.own_name} of {found.home}{note}."
    close = get_close_matches(name.lower(), own_names, n=1)
    meant = f"Did you mean {close[0]}? " if close else ""
    return f"{meant}The options of {home} are {', '.join(sorted(own_names))}."


def _all() -> dict[str, Counterpart]:
    table: dict[str, Counterpart] = {}
    for target, names in _RENAMED.items():
        own_name = target.partition(".")[2]
        table |= {name: Counterpart(target, _NOTES.get(name)) for name in (own_name, *names.split())}
    for reason, names in _ABSENT.items():
        table |= {name: Counterpart(None, reason) for name in names.split()}
    return table


_COUNTERPARTS: Mapping[str, Counterpart] = MappingProxyType(_all())
