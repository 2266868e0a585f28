"""`import quire` is cheap, and every public name is there when asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import quire

HEAVY = ("numpy", "jinja2", "tokenizers", "safetensors", "huggingface_hub", "rich", "click", "torch")


def test_importing_quire_imports_nothing_heavy() -> None:
    code = f"import sys, quire; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", quire.__all__)
def test_public_name_exists(name: str) -> None:
    assert getattr(quire, name) is not None
    assert name in dir(quire)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Llama"):
        _ = quire.Llama
