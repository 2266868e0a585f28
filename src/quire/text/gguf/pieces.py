"""SentencePiece as BPE: merges follow from the vocabulary, since every piece is the join of two others.

SentencePiece joins the neighbors whose piece has the best score; BPE joins those whose merge comes first. So the merges are
all ways to cut a piece into two pieces, the best-scored piece first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from tokenizers import decoders, normalizers

SPACE = "\u2581"


def merges_of(pieces: Sequence[str], ranks: Sequence[float], mergeable: Sequence[bool]) -> list[tuple[str, str]]:
    """Returns the merges, best first: a piece with a lower rank is preferred. Pieces that are not mergeable are left out."""
    ids = {piece: index for index, piece in enumerate(pieces) if mergeable[index]}
    places = _places(set(map(len, ids)))
    merges: list[tuple[str, str]] = []
    for index in sorted(ids.values(), key=ranks.__getitem__):
        merges += _cuts(pieces[index], places[len(pieces[index])], ids)
    return merges


def _places(lengths: Set[int]) -> dict[int, list[int]]:
    """Returns, by the length of a piece, the places where both parts are as long as some piece."""
    ordered = sorted(lengths)
    return {length: [place for place in ordered if 0 < place < length and length - place in lengths] for length in ordered}


def _cuts(piece: str, places: Sequence[int], ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """Returns the ways to cut a piece into two others, those with the earlier left part first."""
    found = [(left, right) for place in places if (left := piece[:place]) in ids and (right := piece[place:]) in ids]
    return found if len(found) < 2 else sorted(found, key=lambda cut: (ids[cut[0]], ids[cut[1]]))


def respelled(token: str) -> str:
    """Returns a token as the vocabulary must spell it: converters write runs of spaces as they look in a text."""
    return SPACE * len(token) if token and not token.strip(" ") else token


def normalizer(*, has_prefix: bool) -> normalizers.Normalizer:
    """Returns the step that writes spaces as SentencePiece does, one before the text too where the file says so."""
    replace = normalizers.Replace(" ", SPACE)
    return normalizers.Sequence([normalizers.Prepend(SPACE), replace]) if has_prefix else normalizers.Sequence([replace])


def decoder(*, has_prefix: bool) -> decoders.Decoder:
    """Returns the steps from pieces back to text."""
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if has_prefix else steps)
