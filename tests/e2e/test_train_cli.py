"""`quire train` as a user runs it: it learns a text by heart, survives being killed, and leaves a model that answers."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import transformers
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from quire import LLM, SamplingParams
from quire.cli.main import cli
from quire.cli.train_progress import TrainProgress
from quire.executors.native import available_isas
from quire.train.curve import read_curve
from quire.train.loop import StepReport
from support.train_world import CONFIG

LINES = (
    "The river rises in the hills and ends in the sea.",
    "Seven lamps hang over the old stone bridge.",
    "A baker opens his shop before the first tram.",
    "Copper turns green where the rain touches it.",
    "My sister keeps bees behind the railway station.",
    "The library closes at nine on every Thursday.",
    "Two ferries cross the lake when the wind is low.",
    "An owl sleeps in the tower of the town hall.",
    "He sold the blue bicycle for forty coins.",
    "Snow fell on the market in the last week of May.",
    "Children count the wagons of the passing train.",
    "The clock above the bank is always late.",
    "Fresh paint dries slowly in the cellar.",
    "A letter from the north came without a stamp.",
    "Her garden has more stones than roses.",
    "Nobody remembers who planted the chestnut tree.",
    "The orchestra tunes while the doors are still open.",
    "Salt, pepper and thyme stand on the upper shelf.",
    "Every spring the stairs are washed with soap.",
    "The last page of the book is missing.",
)
SMALL = ("--vocab-size", 400, "--threads", 1, "--batch-tokens", 1024)
NATIVE = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")
WEIGHTS = "model.safetensors"
KILL_BEFORE_RENAME = """
import os, signal, sys
from pathlib import Path
from quire.cli.main import main
rename, written = Path.replace, []
def replace(self, target):
    if target.name == "state.safetensors":
        written.append(self)
        if len(written) == 6:
            os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.replace = replace
main()
"""
MAIN = "from quire.cli.main import main; main()"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    transformers.utils.logging.disable_progress_bar()
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of 20 lines, conversations, and a small shape."""
    directory = tmp_path_factory.mktemp("train")
    (directory / "lines.txt").write_text("\n".join(LINES) + "\n")
    (directory / "shape.json").write_text(json.dumps(CONFIG | {"max_position_embeddings": 1024}))
    talks = [
        [{"role": "user", "content": f"Say line {number}."}, {"role": "assistant", "content": line}]
        for number, line in enumerate(LINES)
    ]
    (directory / "talks.jsonl").write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    return directory


def train(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["train", *map(str, arguments)])


def start_process(code: str, *arguments: object) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", code, "train", *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


def short_run(world: Path, output: Path) -> list[object]:
    """Returns the arguments of a run of 10 steps that saves after every one."""
    data, shape = world / "talks.jsonl", world / "shape.json"
    return [data, "-o", output, "--config", shape, "--steps", 10, "--warmup-steps", 4, "--save-minutes", 1e-9, *SMALL]


@pytest.fixture(scope="module")
def learned_by_heart(world: Path) -> Path:
    output, shape = world / "by-heart", world / "shape.json"
    options = ("--steps", 120, "--warmup-steps", 10, "--learning-rate", 1e-2, "--weight-decay", 0, "--optimizer", "muon")
    result = train(world / "lines.txt", "-o", output, "--config", shape, "--max-context", 512, *SMALL, *options)
    assert result.exit_code == 0, result.stderr
    return output


@pytest.fixture(scope="module")
def uninterrupted(world: Path) -> Path:
    output = world / "uninterrupted"
    result = train(*short_run(world, output))
    assert result.exit_code == 0, result.stderr
    return output


def assert_same_run(output: Path, expected: Path) -> None:
    """Compares exported weights, the whole state, and the curve, bit for bit, but for times."""
    assert (output / WEIGHTS).read_bytes() == (expected / WEIGHTS).read_bytes()
    ours, theirs = (load_file(path / "training" / "state.safetensors") for path in (output, expected))
    assert ours.keys() == theirs.keys()
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []
    curves = [read_curve(path / "training" / "curve.csv") for path in (output, expected)]
    ours_told, theirs_told = ([(row.step, row.tokens, row.train_loss, row.validation_loss) for row in rows] for rows in curves)
    assert ours_told == theirs_told


def test_twenty_lines_are_learned_by_heart(learned_by_heart: Path) -> None:
    rows = read_curve(learned_by_heart / "training" / "curve.csv")
    assert rows[0].train_loss > 5
    assert rows[-1].train_loss < 0.05


@pytest.mark.parametrize("executor", ["reference", "torch", pytest.param("native", marks=NATIVE)])
def test_the_finished_directory_answers_in_quire(learned_by_heart: Path, executor: str) -> None:
    beginning = LINES[0] + "\n"
    with LLM(str(learned_by_heart), executor=executor, kv_memory="64MiB", threads=1) as llm:
        output = llm.generate([beginning], SamplingParams(temperature=0, max_tokens=60))[0]
    assert output.outputs[0].text.startswith("\n".join(LINES[1:3]))


def test_the_finished_directory_answers_in_transformers(learned_by_heart: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(learned_by_heart)
    model = transformers.AutoModelForCausalLM.from_pretrained(learned_by_heart, dtype=torch.float32).eval()
    prompt = tokenizer(LINES[0] + "\n", return_tensors="pt")
    token_ids = model.generate(**prompt, max_new_tokens=60, do_sample=False)[0]
    assert tokenizer.decode(token_ids).startswith("\n".join(LINES[:3]))


def test_the_directory_tells_what_it_is(learned_by_heart: Path) -> None:
    config = json.loads((learned_by_heart / "config.json").read_text())
    assert config["max_position_embeddings"] == 512
    card = (learned_by_heart / "README.md").read_text()
    assert "| steps | 120 |" in card
    assert "| optimizer | muon |" in card
    assert "(curve.png)" in card
    assert (learned_by_heart / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_training_goes_on_from_a_model_with_other_data(learned_by_heart: Path, world: Path) -> None:
    output = world / "tuned"
    result = train(world / "talks.jsonl", "-o", output, "-m", learned_by_heart, "--steps", 2, "--threads", 1)
    assert result.exit_code == 0, result.stderr
    before, after = (load_file(path / WEIGHTS) for path in (learned_by_heart, output))
    assert before.keys() == after.keys()
    assert not torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert (output / "tokenizer.json").read_bytes() == (learned_by_heart / "tokenizer.json").read_bytes()


def test_a_run_killed_at_a_random_moment_ends_as_if_it_had_not_been(world: Path, uninterrupted: Path) -> None:
    output, delay = world / "killed", random.uniform(0, 2)
    state = output / "training" / "state.safetensors"
    with start_process(MAIN, *short_run(world, output)) as process:
        while not state.exists() and process.poll() is None:
            time.sleep(0.01)
        with suppress(subprocess.TimeoutExpired):
            process.wait(delay)
        process.kill()
    result = train("--resume", "-o", output)
    assert result.exit_code == 0, f"killed after {delay} s: {result.stderr}"
    assert_same_run(output, uninterrupted)


def test_a_run_killed_while_a_state_is_written_ends_as_if_it_had_not_been(world: Path, uninterrupted: Path) -> None:
    output = world / "killed-writing"
    with start_process(KILL_BEFORE_RENAME, *short_run(world, output)) as process:
        assert process.wait() == -signal.SIGKILL
    left = sorted(path.name for path in (output / "training").glob("state*"))
    assert left == ["state.safetensors", "state.safetensors.part"]
    assert len(read_curve(output / "training" / "curve.csv")) == 5
    result = train("--resume", "-o", output)
    assert result.exit_code == 0, result.stderr
    assert_same_run(output, uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_saves_says_how_to_go_on_and_does(
    number: signal.Signals, world: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, handlers = world / f"stopped-{number}", [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    def stop_in_step_5(_: TrainProgress, report: StepReport) -> None:
        if report.step == 5:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(TrainProgress, "show", stop_in_step_5)
        result = train(*short_run(world, output))
    assert result.exit_code == 130
    assert "Stopping after this step" in result.stderr
    assert f"Saved after step 5. Continue with: quire train --resume -o {output}" in result.stderr
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert not (output / "config.json").exists()
    assert train("--resume", "-o", output).exit_code == 0
    assert_same_run(output, uninterrupted)


def test_ctrl_c_ends_a_process_with_130(world: Path) -> None:
    output = world / "interrupted"
    curve = output / "training" / "curve.csv"
    with start_process(MAIN, *short_run(world, output), "--steps", 100_000) as process:
        while not (curve.exists() and curve.read_text().count("\n") > 2) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Saved after step" in said
    assert "Traceback" not in said


def test_a_resumed_run_keeps_its_options(uninterrupted: Path) -> None:
    result = train("--resume", "-o", uninterrupted, "--steps", 99)
    assert result.exit_code == 2
    assert "keeps the data and options it was started with (given: steps)" in result.stderr


def test_without_a_terminal_progress_is_lines(world: Path) -> None:
    output = world / "lines"
    result = train(*short_run(world, output), "--validation", world / "lines.txt", "--max-context", 100, "--validate-every", 5)
    assert result.exit_code == 0, result.stderr
    assert "10/10  loss " in result.stderr
    assert "tokens/s  MFU " in result.stderr
    assert "step 5: validation loss " in result.stderr
    assert "split into independent pieces: 1" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--resume",), "no training run to continue"),
        (("-m", "a", "--config", "b"), "--model and --config"),
        (("-m", "a", "--tokenizer", "b"), "--model and --tokenizer"),
        (("--tokenizer", "b", "--vocab-size", "300"), "--tokenizer and --vocab-size"),
        (("--steps", "1", "--epochs", "1"), "--steps and --epochs"),
        (("--validation", "v.txt", "--validation-share", "0.1"), "--validation and --validation-share"),
        (("--learning-rate", "-1"), "--learning-rate is out of range"),
        (("--device", "abacus"), "the device is unknown to training"),
        (("--vocab-size", "100"), "the vocabulary is too small"),
        (("--batch-tokens", "8", "--vocab-size", "300", "--threads", "1"), "longer than a batch"),
        ((), "nothing to learn from"),
    ],
)
def test_what_cannot_work_is_one_line_and_exit_code_2(world: Path, tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    data = () if options in ((), ("--resume",)) else (world / "lines.txt",)
    result = train(*data, "-o", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.rstrip().splitlines()[-1].startswith("error: ")


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    data = tmp_path / "chats.jsonl"
    data.write_text('{"text": "Good."}\n{"text": bad}\n')
    result = train(data, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert f"{data}:2" in result.stderr


def test_missing_torch_is_named_before_anything_is_done(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch" else find(name))
    result = train(world / "lines.txt", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "no torch" in result.stderr
    assert "pip install 'quire[torch]'" in result.stderr
    assert not (tmp_path / "out").exists()


def test_without_matplotlib_the_picture_is_left_out_aloud(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    output = world / "unpictured"
    result = train(*short_run(world, output))
    assert result.exit_code == 0, result.stderr
    assert "the picture curve.png is left out" in result.stderr
    assert not list(output.rglob("*.png"))
    assert "curve.png" not in (output / "README.md").read_text()
    assert (output / "training" / "curve.csv").read_text().count("\n") > 10
    assert (output / "model.safetensors").exists()


def test_help_shows_the_recipes_own_defaults() -> None:
    text = " ".join(train("--help").stdout.split())
    assert "[default: 8192]" in text
    assert "quire train --resume -o my-model" in text
