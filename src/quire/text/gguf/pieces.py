"""SentencePiece as BPE: merges follow from the vocabulary, since every piece is the join of two others.

SentencePiece joins the neighbors whose piece has the best score; BPE joins those whose merge comes first. So the merges are
all ways to cut a piece into two pieces, the best-scored piece first.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import decoders, normalizers

SPACE = "\u2581"


def merges_of(pieces: Sequence[str], ranks: Sequence[float], mergeable: Sequence[bool]) -> list[tuple[str, str]]:
    """Returns the merges, best first: a piece with a lower rank is preferred. Pieces that are not mergeable are left out."""
    ids = {piece: index for index, piece in enumerate(pieces) if mergeable[index]}
    found = []
    for piece, index in ids.items():
        cuts = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece)) if piece[:cut] in ids and piece[cut:] in ids]
        found += [(ranks[index], ids[left], ids[right], left, right) for left, right in cuts]
    found.sort(key=lambda merge: merge[:3])
    return [(left, right) for *_, left, right in found]


def normalizer(*, has_prefix: bool) -> normalizers.Normalizer:
    """Returns the step that writes spaces as SentencePiece does, one before the text too where the file says so."""
    replace = normalizers.Replace(" ", SPACE)
    return normalizers.Sequence([normalizers.Prepend(SPACE), replace]) if has_prefix else normalizers.Sequence([replace])


def decoder(*, has_prefix: bool) -> decoders.Decoder:
    """Returns the steps from pieces back to text."""
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if has_prefix else steps)
