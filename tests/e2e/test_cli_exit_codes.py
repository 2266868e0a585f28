"""One exit code per kind of mistake, whatever the command: 1 where it failed, 2 where it cannot be done as asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from quire.cli.main import cli

FAILED, MISUSED = 1, 2
ON_A_MODEL = (
    ("run", "hi"),
    ("chat",),
    ("verify",),
    ("bench", "decode"),
    ("bench", "start"),
    ("bench", "overhead"),
    ("bench", "quality", "--text", "TEXT"),
    ("models",),
    ("train", "TEXT", "-o", "OUT"),
)
COMMANDS = (*ON_A_MODEL, ("info",))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUIRE_OFFLINE", "1")
    (tmp_path / "text.txt").write_text("some words\n")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{")
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "config.json").write_text(json.dumps({"architectures": ["FooForCausalLM"]}))
    (tmp_path / "empty").mkdir()
    return tmp_path


def _quire(place: Path, *arguments: str | Path, stdin: bytes = b"") -> Result:
    words = {"TEXT": str(place / "text.txt"), "OUT": str(place / "out")}
    return CliRunner().invoke(cli, [words.get(str(word), str(word)) for word in arguments], input=stdin)


def _assert_ends_with(result: Result, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    last = result.stderr.strip().splitlines()[-1]
    assert last.lower().startswith("error: ")
    for word in words:
        assert word in last


@pytest.mark.parametrize("command", ON_A_MODEL, ids=" ".join)
def test_a_model_that_is_not_there_is_misuse(place: Path, command: tuple[str, ...]) -> None:
    for name in ("/nowhere/at/all", "no-such-model", ""):
        _assert_ends_with(_quire(place, *command, "-m", name), MISUSED, "given: " + (name or "''"))


@pytest.mark.parametrize("command", ON_A_MODEL, ids=" ".join)
@pytest.mark.parametrize("kind", ["empty", "damaged", "strange"])
def test_a_model_that_cannot_be_used_is_a_failure(place: Path, command: tuple[str, ...], kind: str) -> None:
    _assert_ends_with(_quire(place, *command, "-m", place / kind), FAILED, "(given: ")


def test_weights_that_are_cut_off_are_a_failure(place: Path, tiny_model: Path) -> None:
    model = shutil.copytree(tiny_model, place / "model")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    for command in ON_A_MODEL:
        if command != ("models",):  # which reads no weights
            _assert_ends_with(_quire(place, *command, "-m", model), FAILED, "model.safetensors")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_unknown_option_is_misuse(place: Path, command: tuple[str, ...]) -> None:
    _assert_ends_with(_quire(place, *command, "--frobnicate"), MISUSED, "--frobnicate")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--max-model-len", "Quire calls it --max-context"),
        ("--ctx-size", "Quire calls it --max-context"),
        ("-c", "Quire calls it --max-context"),
        ("--n-predict", "Quire calls it --max-tokens"),
        ("--max-new-tokens", "Quire calls it --max-tokens"),
        ("--temp", "Quire calls it --temperature"),
        ("--repeat-penalty", "Quire calls it --repetition-penalty"),
        ("--gpu-memory-utilization", "Quire calls it --kv-memory; kv_memory is a size"),
        ("-t", "Quire calls it --threads"),
        ("--num-return-sequences", "Quire calls it -n"),
        ("--top-logprobs", "Quire calls it --logprobs; it takes"),
        ("--quantization", "Quire calls it --quantize"),
        ("--trust-remote-code", "no counterpart"),
        ("--tensor-parallel-size", "no counterpart"),
        ("--prompt", "the PROMPT argument"),
        ("--stream", "always streamed"),
        ("--temprature", "--temperature"),
    ],
)
def test_an_option_of_another_engine_is_answered_with_ours(place: Path, option: str, words: str) -> None:
    _assert_ends_with(_quire(place, "run", option, "5", "hi"), MISUSED, option, words)


def test_our_name_is_told_only_where_the_command_has_it(place: Path) -> None:
    assert "--max-context" not in _quire(place, "info", "--max-model-len", "5").stderr
    assert "Quire calls it --max-context" in _quire(place, "train", "--max-seq-length", "5").stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "hi", "--temperature", "101"), "0.0<=x<=100.0"),
        (("run", "hi", "--temperature", "nan"), "given: nan"),
        (("run", "hi", "--max-context", "1"), "x>=2"),
        (("run", "hi", "--max-context", "99999999"), "limit: 2 to"),
        (("run", "hi", "--threads", "1025"), "1<=x<=1024"),
        (("bench", "decode", "--threads", "1025"), "1<=x<=1024"),
        (("train", "TEXT", "-o", "OUT", "--threads", "1025"), "1<=x<=1024"),
        (("train", "TEXT", "-o", "OUT", "--max-context", "1"), "x>=2"),
        (("train", "TEXT", "-o", "OUT", "--seed", str(2**70)), f"0<=x<={2**64 - 1}"),
        (("train", "TEXT", "-o", "OUT", "--learning-rate", "nan"), "--learning-rate"),
        (("run", "hi", "--block-size", "33"), "multiple of the kernel tile"),
        (("run", "hi", "--max-num-seqs", str(2**70)), "--max-num-seqs"),
        (("run", "hi", "--kv-memory", "9" * 60), "--kv-memory"),
        (("run", "hi", "--kv-memory", "1KiB"), "does not hold one block"),
        (("run", "hi", "-n", "65", "--temperature", "1"), "1<=x<=64"),
        (("run", "hi", "--logprobs", "2000"), "0<=x<=1024"),
        (("run", "hi", "--top-k", "-2"), "-1<=x<="),
        (("run", "hi", "--stop", ""), "stop"),
        (("run", "hi", "--dtype", "half"), "Write float32"),
        (("bench", "decode", "--dtype", "fp16"), "Write float32"),
        (("run", ""), "The prompt is empty"),
        (("run", "hi", "there"), "unexpected extra argument"),
        (("models", "one", "-m", "another"), "Name one model"),
        (("verify", "--kv-cache", "off"), "verify varies"),
        (("verify", "--training", "--full"), "--training"),
        (("train", "-o", "OUT"), "nothing to learn from"),
        (("train", "TEXT"), "--output"),
        (("train", "/nowhere.txt", "-o", "OUT"), "/nowhere.txt"),
        (("train", "TEXT", "-o", "OUT", "--config", "/nowhere.json"), "/nowhere.json"),
        (("bench", "quality", "--text", "/nowhere.txt"), "nowhere.txt"),
        (("bench", "decode", "--config", "/nowhere.json"), "nowhere.json"),
        (("bench", "frobnicate"), "frobnicate"),
        (("frobnicate",), "frobnicate"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else None,
)
def test_what_cannot_be_done_as_asked_is_misuse(
    place: Path, tiny_model: Path, arguments: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quire.cli.load.bundled_directory", lambda: tiny_model)
    _assert_ends_with(_quire(place, *arguments), MISUSED, words)


@pytest.mark.parametrize("command", [("run",), ("chat",)])
def test_input_that_is_no_text_is_misuse_and_says_where(place: Path, tiny_model: Path, command: tuple[str, ...]) -> None:
    result = _quire(place, *command, "-m", tiny_model, stdin="caf\u00e9".encode() + b"\xff\n")
    _assert_ends_with(result, MISUSED, "not UTF-8", "byte 0xff at offset 5")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("bad.txt", ("train", "FILE", "-o", "OUT")),
        ("bad.jsonl", ("train", "FILE", "-o", "OUT")),
        ("bad.txt", ("bench", "quality", "--text", "FILE")),
    ],
)
def test_a_file_that_is_no_text_is_misuse_and_says_where(
    place: Path, tiny_model: Path, name: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quire.cli.load.bundled_directory", lambda: tiny_model)
    path = place / name
    line = b'{"text": "aaaa"}\n'
    path.write_bytes(line * 1000 + b'{"text": "\xff"}\n')  # beyond what a decoder reads at once
    words = [str(path) if word == "FILE" else word for word in arguments]
    _assert_ends_with(_quire(place, *words), MISUSED, f"byte 0xff at offset {1000 * len(line) + 10}")


def test_help_documents_the_exit_codes(place: Path) -> None:
    shown = _quire(place, "--help").stdout
    assert all(f"  {code} " in shown for code in (0, 1, 2, 130))


@pytest.mark.parametrize(
    ("option", "answer"),
    [
        ("-ngl 5", "-ngl. Leave it out: it has no counterpart here"),
        ("-ngl=5", "-ngl. Leave it out"),
        ("-mg 0", "-mg. Leave it out"),
        ("-np 4", "-np. Quire calls it --max-num-seqs"),
        ("-ctk q8_0", "-ctk. Quire calls it --kv-format"),
        ("-tb 4", "-tb. Quire calls it --threads"),
        ("-sys Hi", "-sys. Quire calls it --system"),
        ("-cnv", "-cnv. Use `quire chat`"),
        ("-mm x", "-mm. Use -m MODEL."),
        ("-model x", "-model. Use -m MODEL."),
        ("-seed 3", "-seed. Quire calls it --seed."),
        ("-mh", "-mh. Did you mean -h?"),
        ("-nm", "-nm. Did you mean -m?"),
        ("-m--seed 3", "-m--seed. Did you mean --seed?"),
    ],
)
def test_an_option_of_several_letters_after_one_dash_is_answered_by_its_name(option: str, answer: str) -> None:
    result = CliRunner().invoke(cli, ["run", "hi", *option.split()])
    assert (result.exit_code, answer in result.stderr) == (MISUSED, True), result.stderr


@pytest.mark.parametrize("words", [("run", "-mm", "x"), ("bench", "quality", "-mm", "x"), ("models", "-mm")])
def test_an_option_that_would_be_read_as_another_with_its_value_is_refused(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, words)
    assert (result.exit_code, "No such option: -mm" in result.stderr) == (MISUSED, True), result.stderr


@pytest.mark.parametrize(
    "words", [("hi", "-mnowhere"), ("hi", "-m", "-mm"), ("hi", "--system", "-mm", "-m", "no"), ("-m", "no", "--", "-mm")]
)
def test_a_value_may_look_like_an_option(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, ["run", *words], env={"QUIRE_OFFLINE": "1"})
    assert (result.exit_code, "(given: " in result.stderr, "No such option" in result.stderr) == (MISUSED, True, False), (
        result.stderr
    )


@pytest.mark.parametrize("arguments", [("-n", "gl"), ("-nx", "4"), ("-x",), ("-n", "0", "--", "-ngl")])
def test_other_faults_of_short_options_are_told_as_they_are(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, ["run", "hi", *arguments])
    assert result.exit_code == MISUSED
    assert "Quire calls" not in result.stderr
    assert "counterpart" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--max-context 3000", "Ask for a shorter --max-context,"),
        ("--kv-memory 1", "Raise --kv-memory, or choose a smaller --block-size or --kv-format."),
        ("--executor torch --quantize int4", "given: --quantize int4"),
        ("--executor torch --quantize int4", "pass --executor native."),
        ("--kv-memory 100000GiB", "--kv-memory asks for more memory"),
        ("--block-size 48", "--block-size must be"),
        ("-n 2", "given: -n 2"),
    ],
)
def test_errors_name_options_as_they_are_typed(arguments: str, said: str) -> None:
    result = CliRunner().invoke(cli, ["run", "hi", *arguments.split()])
    assert (result.exit_code, said in result.stderr) == (MISUSED, True), result.stderr
