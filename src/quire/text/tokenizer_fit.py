"""Whether a model has all tokens of its tokenizer."""

from __future__ import annotations

import logging

from quire.errors import TokenizerError
from quire.text.tokenizer import Tokenizer

_log = logging.getLogger("quire")
_WRITTEN_TOKENS = ("bos_token", "eos_token")
_MAX_SHOWN = 4


def require_fit(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Raises TokenizerError for tokens, or ids that end an answer, for which a model has no logits.

    A tokenizer with fewer tokens is fine: models pad their vocabulary. Named tokens that a text engine never writes, such as
    an image's or the padding's, may lie beyond (Gemma 3 1B has no image token, its tokenizer does); they are logged.
    """
    eos_id = max(tokenizer.eos_token_ids, default=0)
    if eos_id >= vocab_size:
        raise _beyond("eos_token_id is a token that the model does not have", str(eos_id), vocab_size)
    if tokenizer.vocab_size <= vocab_size:
        return
    ids = tokenizer.ids_by_token()
    beyond = sorted((token for token, token_id in ids.items() if token_id >= vocab_size), key=ids.__getitem__)
    unwritten = {token for name, token in tokenizer.named_tokens.items() if name not in _WRITTEN_TOKENS}
    written = [token for token in beyond if token not in unwritten]
    if written:
        shown = ", ".join(f"{token!r} is {ids[token]}" for token in written[:_MAX_SHOWN])
        raise _beyond("the tokenizer has tokens that the model does not have", f"{len(written)}: {shown}", vocab_size)
    _log.warning("the model does not have these tokens of its tokenizer, which text does not need: %s", ", ".join(beyond))


def _beyond(problem: str, given: str, vocab_size: int) -> TokenizerError:
    return TokenizerError(
        problem,
        given=given,
        limit=f"ids 0 to {vocab_size - 1}",
        next_step="Use the tokenizer and the configuration that belong to these weights.",
    )
