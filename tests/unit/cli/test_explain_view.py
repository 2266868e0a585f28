"""What the cache did for a prompt, as tables and as JSON."""

from __future__ import annotations

import json

from quire.cli.explain_view import MAP_CELLS, admission_rows, explanation_json, explanation_view, prompt_map
from quire.kv.explain import Admission, CacheExplanation, Divergence, Loss, MissReason


def _admission(num_tokens: int, num_reused: int, reason: MissReason = MissReason.COLD, **fields: object) -> Admission:
    values = {"num_matched_tokens": num_reused} | fields
    return Admission(step=3, num_tokens=num_tokens, num_reused_tokens=num_reused, reason=reason, **values)  # type: ignore[arg-type]


def test_prompt_map_has_a_character_a_block() -> None:
    assert prompt_map(_admission(100, 64), 32) == "==++"
    assert prompt_map(_admission(1, 0), 32) == "+"


def test_long_prompt_map_fits_and_never_hides_a_computed_block() -> None:
    shown = prompt_map(_admission(32 * 1000, 32 * 999), 32)
    assert len(shown) <= MAP_CELLS
    assert shown.endswith("=+")


def test_divergence_is_placed_in_its_block_with_both_texts() -> None:
    rows = admission_rows(_admission(100, 40, MissReason.DIVERGED, divergence=Divergence(40, 5, 6, " Paris", " London")), 32)
    assert rows["diverged"] == "at token 40, in block 1: ' Paris' here, ' London' in the cache"
    rows = admission_rows(_admission(100, 40, MissReason.DIVERGED, divergence=Divergence(40, 5, 6)), 32)
    assert rows["diverged"] == "at token 40, in block 1"


def test_copies_evictions_waits_and_tiles_computed_again_have_rows() -> None:
    rows = admission_rows(
        _admission(
            100,
            40,
            MissReason.EVICTED,
            num_copied_tokens=8,
            num_matched_tokens=45,
            loss=Loss(7, 12, None),
            waited_for=("request-1",),
        ),
        32,
    )
    assert rows["reused"] == "40 of 100 tokens, 8 of them copied into a block of its own"
    assert rows["evicted"] == "in step 7, 12 steps before, for another request"
    assert rows["again"].startswith("5 tokens match")
    assert rows["waited"] == "for request-1, which computed this prefix"
    assert set(admission_rows(_admission(100, 32), 32)) == {"reused", "then", "blocks"}


def test_every_reason_has_words() -> None:
    for reason in MissReason:
        assert admission_rows(_admission(4, 0, reason), 32)["then"]


def test_every_admission_has_a_table_and_what_is_left_out_is_said() -> None:
    found = CacheExplanation(request_id="r", admissions=(_admission(9, 0), _admission(12, 4)), num_left_out=2)
    assert [table.title for table in explanation_view(found, 4)] == ["Prompt", "Let in again, in step 3; 2 before it left out"]


def test_json_says_what_the_tables_say() -> None:
    admission = _admission(100, 40, MissReason.DIVERGED, divergence=Divergence(40, 5, 6, "a", "b"), waited_for=("request-1",))
    (found,) = json.loads(json.dumps(explanation_json(CacheExplanation(request_id="r", admissions=(admission,)))))
    assert (found["reused_tokens"], found["computed_tokens"], found["reason"]) == (40, 60, "diverged")
    assert found["diverged"] == {"position": 40, "token_id": 5, "cached_token_id": 6, "text": "a", "cached_text": "b"}
    assert (found["evicted"], found["waited_for"]) == (None, ["request-1"])
