"""A model in llama.cpp: a GGUF file, or one of a checkpoint's weights, quantized by llama.cpp itself where it has a recipe."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import MappingProxyType
from typing import Any

import llama_cpp

from .gguf_model import write_gguf
from .protocol import ContestantError

RECIPES = MappingProxyType({"Q4_K_M": "MOSTLY_Q4_K_M", "Q4_0-default": "MOSTLY_Q4_0"})
"""What `llama-quantize` makes of these names: a mix of formats. All other names are one format for every matrix."""
_PURE = MappingProxyType({"F32": "ALL_F32", "BF16": "MOSTLY_BF16", "Q8_0": "MOSTLY_Q8_0", "Q4_0": "MOSTLY_Q4_0"})


@llama_cpp.llama_log_callback
def _silence(_level: int, _text: bytes, _data: ctypes.c_void_p) -> None:
    """Drops what the library would print."""


class LlamaCppModel:
    """A loaded GGUF file, not memory-mapped."""

    def __init__(self, model: Path, number_format: str) -> None:
        llama_cpp.llama_log_set(_silence, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        path = gguf_of(model, number_format)
        params = llama_cpp.llama_model_default_params()
        params.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if self._model is None:
            raise ContestantError(f"llama.cpp cannot load {path.name}")
        self.vocab_size: int = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))

    @property
    def facts(self) -> dict[str, str]:
        """The version and what the library says of the instructions it uses."""
        system = llama_cpp.llama_print_system_info().decode()
        return {"llama-cpp-python": llama_cpp.__version__, "system": " ".join(system.split())}

    def context(self, params: Any) -> Any:
        """Returns a new context; whoever asks frees it."""
        context = llama_cpp.llama_init_from_model(self._model, params)
        if context is None:
            raise ContestantError("llama.cpp cannot make a context")
        return context


def gguf_of(model: Path, number_format: str) -> Path:
    """Returns the GGUF file of a directory's weights, or of another GGUF file's values, in a format; it lies beside them.

    Values of a GGUF file become float32 first, so a format never sees the one that they were stored in.
    """
    if model.is_dir():
        return (
            _quantized(write_gguf(model, "F32"), number_format) if number_format in RECIPES else write_gguf(model, number_format)
        )
    whole = _quantized(model, "F32")
    return whole if number_format == "F32" else _quantized(whole, number_format)


def _quantized(source: Path, name: str) -> Path:
    path = source.with_name(f"model-{name}.gguf")
    if path.exists():
        return path
    unfinished = path.with_suffix(".unfinished")
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_{RECIPES.get(name) or _PURE[name]}")
    params.allow_requantize, params.pure = True, name not in RECIPES
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(unfinished).encode(), ctypes.byref(params))
    if status != 0:
        raise ContestantError(f"llama_model_quantize returned {status}")
    return unfinished.replace(path)
