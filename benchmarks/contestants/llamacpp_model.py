"""A model in llama.cpp: a GGUF file of the checkpoint's weights, quantized by llama.cpp itself where it has a recipe."""

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


@llama_cpp.llama_log_callback
def _silence(_level: int, _text: bytes, _data: ctypes.c_void_p) -> None:
    """Drops what the library would print."""


class LlamaCppModel:
    """A loaded GGUF file, not memory-mapped."""

    def __init__(self, directory: Path, number_format: str) -> None:
        llama_cpp.llama_log_set(_silence, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        path = _by_recipe(directory, number_format) if number_format in RECIPES else write_gguf(directory, number_format)
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


def _by_recipe(directory: Path, name: str) -> Path:
    path = directory / f"model-{name}.gguf"
    if path.exists():
        return path
    source, unfinished = write_gguf(directory, "BF16"), path.with_suffix(".unfinished")
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_{RECIPES[name]}")
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(unfinished).encode(), ctypes.byref(params))
    if status != 0:
        raise ContestantError(f"llama_model_quantize returned {status}")
    return unfinished.replace(path)
