"""The comparison's own arithmetic and honesty: medians, ratios, losses told, absences explained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.contestants.arguments import parse
from benchmarks.contestants.pieces import Piece, merged, read_piece
from benchmarks.contestants.protocol import ContestantError, Reading, reason
from benchmarks.contestants.report import Circumstances, as_json, as_markdown
from benchmarks.contestants.results import Results, agreement, duels, roofline
from benchmarks.contestants.roster import ROSTER, Precision, opener, parse_name, parse_names
from benchmarks.contestants.timing import timed_steps
from benchmarks.contestants.workloads import GROUPS, Phase, Sizes, Workload, fitting, measured_together

from quire.bench.cost import matrix_elements
from quire.bench.machine_peak import MachinePeak
from quire.config import KVFormat
from quire.executors.protocol import kv_layout
from quire.models.checkpoint import Checkpoint

OURS, PEER, SLOW = (parse_name(name) for name in ("quire:bfloat16", "vllm:bfloat16", "transformers:bfloat16"))
DECODE, PREFILL = Workload(phase=Phase.DECODE, depth=0, num_new=4), Workload(phase=Phase.PREFILL, depth=100, num_new=1)
MACHINE = MachinePeak(bandwidth=1e6, flops=1e9)


def reading(prefill_s: float, *steps_s: float, tokens: tuple[int, ...] = (1, 2, 3, 4)) -> Reading:
    return Reading(prefill_s=prefill_s, steps_s=list(steps_s), token_ids=[list(tokens)])


@pytest.fixture
def results() -> Results:
    found = Results(peaks=[MACHINE, MACHINE], missing={"llama.cpp:BF16": "cannot be imported: No module named 'llama_cpp'"})
    for name, step_s, prefill_s, tokens in ((OURS, 0.1, 2.0, (1, 2, 3, 4)), (PEER, 0.2, 1.0, (1, 2, 9, 4)), (SLOW, 0.4, 4.0, ())):
        found.facts[name] = {"version": "1"}
        found.add(name, DECODE, "1", reading(1.0, step_s, 9.0, step_s, tokens=tokens))
        found.add(name, PREFILL, "1", reading(prefill_s))
    return found


@pytest.fixture
def around(checkpoint: Checkpoint) -> Circumstances:
    layout = kv_layout(checkpoint.spec, 32, KVFormat.BFLOAT16)
    machine = {"cpu": "Fast CPU 9"}
    commands = ("python compare.py",)
    return Circumstances(shape="tiny", spec=checkpoint.spec, layout=layout, threads=2, machine=machine, commands=commands)


def test_a_rate_is_of_the_phase_the_workload_is_about(results: Results) -> None:
    assert results.rate(OURS, DECODE) == 10.0  # the median step, not the slow one
    assert results.rate(OURS, PREFILL) == 50.0
    assert results.rate(parse_name("vllm:int8"), DECODE) is None


def test_the_rate_of_a_batch_counts_all_requests() -> None:
    four = Workload(phase=Phase.DECODE, depth=0, num_new=4, batch=4)
    assert four.tokens_per_second(reading(1.0, 0.5)) == 8.0
    assert [len(prompt) for prompt in four.task(100).prompts] == [1] * 4
    assert len({prompt[0] for prompt in four.task(100).prompts}) == 4


def test_requests_share_a_prefix_and_differ_from_there_on() -> None:
    shared = Workload(phase=Phase.SHARED, depth=8, num_new=4, batch=3, own=2)
    task = shared.task(100)
    assert (task.num_shared, task.num_known, task.reuses) == (8, 0, True)
    assert len({tuple(prompt[:8]) for prompt in task.prompts}) == 1
    assert len({prompt[8] for prompt in task.prompts}) == 3
    assert shared.tokens_per_second(reading(2.0, 1.0, 1.0, 2.0)) == 12 / 6
    assert shared.num_tokens == 14


def test_a_second_turn_knows_its_first() -> None:
    turn = Workload(phase=Phase.TURN, depth=8, num_new=1, own=2)
    task = turn.task(100)
    assert (task.num_shared, task.num_known, len(task.prompts[0])) == (0, 8, 10)
    assert turn.tokens_per_second(reading(0.5)) == 20


def test_a_warm_up_is_the_same_kind_of_work_but_short() -> None:
    for workload in Sizes().workloads():
        short = workload.warm_up()
        assert (short.phase, short.batch) == (workload.phase, workload.batch)
        assert short.batch * short.num_tokens < 2000
        assert short.task(1000).reuses == workload.reuses


def test_one_reading_of_deep_decode_tells_its_prefill_too() -> None:
    together = measured_together(Sizes().workloads())
    assert sorted(len(each) for each in together) == [1] * 7 + [2]
    assert {each.name for group in together for each in group} == {each.name for each in Sizes().workloads()}
    assert next(group for group in together if len(group) == 2)[1].phase is Phase.PREFILL


def test_quire_is_compared_with_the_best_peer_of_its_precision(results: Results) -> None:
    results.add(parse_name("llama.cpp:Q8_0"), DECODE, "1", reading(1.0, 0.001))
    decode, prefill = duels(results, (DECODE, PREFILL))
    assert (decode.best, decode.ratio) == (PEER, 2.0)
    assert (prefill.best, prefill.ratio) == (PEER, 0.5)


def test_losses_and_absences_are_told(results: Results, around: Circumstances) -> None:
    text = as_markdown(results, (DECODE, PREFILL), around)
    losses = text.split("## Where we lose")[1].split("##")[0]
    assert "prefill 100" in losses
    assert "0.50x" in losses
    assert "decode" not in losses
    assert "llama.cpp:BF16: cannot be imported" in text.split("## Not measured")[1]
    assert "| decode, batch 1, depth 0 | " in text
    assert "2.00x" in text


def test_a_precision_without_a_contest_is_no_victory(results: Results, around: Circumstances) -> None:
    results.add(parse_name("openvino:int8"), DECODE, "1", reading(1.0, 0.001))
    losses = as_markdown(results, (DECODE,), around).split("## Where we lose")[1].split("##")[0]
    assert losses.strip() == "- 8 bits a weight: there was no contest"


def test_the_json_holds_every_reading(results: Results, around: Circumstances) -> None:
    found = json.loads(json.dumps(as_json(results, (DECODE, PREFILL), around)))
    assert found["tokens_per_second"]["quire:bfloat16"] == {DECODE.name: [10.0], PREFILL.name: [50.0]}
    assert found["equal_tokens"]["vllm:bfloat16"] == [2, 4]
    assert [each["ratio"] for each in found["best_peer"]] == [2.0, 0.5]
    assert found["missing"] == results.missing
    assert found["records"][0]["round_id"] == "1"
    assert len(found["peaks"]) == 2


def test_agreement_counts_leading_tokens(results: Results) -> None:
    assert agreement(results, DECODE, OURS) == {OURS: (4, 4), PEER: (2, 4), SLOW: (0, 4)}
    assert agreement(results, DECODE, parse_name("quire:int8")) == {}


def test_the_roofline_of_fewer_bits_is_higher(checkpoint: Checkpoint) -> None:
    layout = kv_layout(checkpoint.spec, 32, KVFormat.BFLOAT16)
    layers, head = matrix_elements(checkpoint.spec)
    one = Workload(phase=Phase.DECODE, depth=0, num_new=0)
    limits = {each: roofline(checkpoint.spec, layout, one, each, MACHINE) for each in Precision}
    assert limits[Precision.BF16] == pytest.approx(1e6 / (2 * (layers + head)))
    assert limits[Precision.INT4] == pytest.approx(4 * limits[Precision.BF16])
    assert roofline(checkpoint.spec, layout, PREFILL, Precision.INT8, MACHINE) is None


def test_workloads_beyond_the_context_are_set_apart() -> None:
    held, beyond = fitting(Sizes().workloads(), 1024)
    assert {each.depth for each in held} == {0, 512}
    assert {each.depth for each in beyond} == {2048, 4096}
    assert len(held) + len(beyond) == 9


def test_a_ratio_is_of_rounds_in_which_both_were_measured(results: Results) -> None:
    for round_id, ours, theirs in (("2", 0.1, 0.1), ("3", 0.1, 0.05), ("4", 0.1, None)):
        results.add(OURS, DECODE, round_id, reading(1.0, ours))
        if theirs is not None:
            results.add(PEER, DECODE, round_id, reading(1.0, theirs))
    [duel] = duels(results, (DECODE,))
    assert (duel.best, duel.ratio, duel.num_pairs) == (PEER, 1.0, 3)  # 2.0, 1.0, 0.5


def test_runs_are_merged_and_what_one_lacks_another_may_have(tmp_path: Path, results: Results, around: Circumstances) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    paths[0].write_text(json.dumps(as_json(results, (DECODE, PREFILL), around)))
    other = Results(missing={str(PEER): "slept"}, peaks=[MACHINE])
    other.add(OURS, DECODE, "5", reading(1.0, 0.2))
    paths[1].write_text(json.dumps(as_json(other, (DECODE,), around)))
    both = merged([read_piece(path) for path in paths])
    assert both.workloads == (DECODE, PREFILL)
    assert both.results.rates(OURS, DECODE) == {"1": 10.0, "5": 5.0}
    assert both.results.rates(PEER, DECODE) == {"1": 5.0}
    assert both.results.missing == results.missing  # the peer that slept in one run was measured in the other
    assert len(both.results.peaks) == 3
    assert both.commands == around.commands * 2


def test_runs_of_different_machines_are_not_merged(results: Results) -> None:
    one, another = (
        Piece(results=results, workloads=(), shape="tiny", threads=2, machine={"cpu": cpu}, commands=()) for cpu in ("A", "B")
    )
    with pytest.raises(ContestantError, match="do not belong together: CPU A and B"):
        merged([one, another])


def test_a_run_can_be_a_part_of_everything() -> None:
    asked = parse(
        "", ["c.json", "--contestants", "quire", "llama.cpp:Q4_K_M", "--formats", "int4", "--workloads", "deep", "turn"]
    )
    assert [str(name) for name in asked.contestants] == ["quire:int4", "llama.cpp:Q4_K_M"]
    assert {each.phase for each in asked.sizes.workloads(asked.groups)} == {Phase.DECODE, Phase.PREFILL, Phase.TURN}
    assert set(parse("", ["c.json"]).groups) == set(GROUPS)
    assert parse_names("vllm") == (PEER, parse_name("vllm:float32"))


def test_everybody_on_the_roster_has_a_precision() -> None:
    assert {name.precision for name in ROSTER if name.is_ours} == set(Precision)
    with pytest.raises(ValueError, match="llama"):
        parse_name("tgi:bfloat16")


def test_an_engine_that_is_not_installed_says_so() -> None:
    with pytest.raises(ContestantError, match="cannot be imported"):
        opener("llama.cpp")


def test_steps_count_from_first_tokens_of_all() -> None:
    tokens: list[list[int]] = [[], []]
    grown = iter(([[1], []], [[1, 2], [3]], [[1, 2], [3]], [[1, 2, 4], [3, 5]]))

    def step() -> list[list[int]]:
        tokens[:] = next(grown)
        return tokens

    found = timed_steps(step, 2)
    assert len(found.steps_s) == 1  # the step without a token belongs to the one that brought some
    assert found.token_ids == [[1, 2, 4], [3, 5]]


def test_a_reason_is_one_line() -> None:
    assert reason(ContestantError("no\nroom")) == "no room"
    assert reason(KeyError("x")) == "KeyError: 'x'"


def test_gguf_holds_the_weights_in_the_order_of_its_graph(tmp_path: Path, config_file: Path) -> None:
    gguf = pytest.importorskip("gguf")
    import numpy as np
    from benchmarks.contestants.gguf_model import interleaved, write_gguf

    from quire.bench.saved_model import save_random_model
    from quire.models.checkpoint import load_checkpoint

    save_random_model(config_file, tmp_path / "m")
    weights = load_checkpoint(tmp_path / "m").weights
    tensors = {each.name: each for each in gguf.GGUFReader(write_gguf(tmp_path / "m", "Q8_0")).tensors}
    for name, expected in (
        ("blk.1.attn_q.weight", interleaved(weights["layers.1.attn.q.weight"].to_float32(), 16)),
        ("blk.0.ffn_down.weight", weights["layers.0.ffn.down.weight"].to_float32()),
    ):
        found = gguf.quants.dequantize(tensors[name].data, tensors[name].tensor_type)
        np.testing.assert_allclose(found, expected, rtol=0, atol=np.abs(expected).max() / 127)
