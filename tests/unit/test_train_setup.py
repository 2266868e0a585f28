"""What a run starts from: what is not there or does not fit is refused before anything is trained."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from quire.config import DType
from quire.errors import CheckpointError, ConfigError, ExecutorError, ExecutorUnavailableError, ModelNotFoundError, TokenizerError
from quire.models.checkpoint import load_checkpoint
from quire.train.checkpoint import load_state
from quire.train.loop import StepReport
from quire.train.recipe import Job, Recipe
from quire.train.run import Run, resume_run, start_run
from quire.train.setup import DEFAULT_CONFIG, check_machine, new_decoder, prepare, spec_of
from support.configs import CONFIGS
from support.train_world import CONFIG, TEXTS, write_tokenizer


class World:
    """A directory with its own text, a shape and a tokenizer; it records the notices."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.notices = directory, list[str]()
        self.text, self.output = directory / "text.txt", directory / "out"
        self.text.write_text("\n".join(TEXTS), encoding="utf-8")
        self.job = Job(data=(str(self.text),), config=self.config(), vocab_size=300)

    def config(self, **changes: Any) -> str:
        path = self.directory / "shape.json"
        path.write_text(json.dumps(CONFIG | changes))
        return str(path)

    def tokenizer(self) -> str:
        return str(write_tokenizer(self.directory / "tokenizer"))

    def prepare(self, job: Job) -> dict[str, Any]:
        target = self.directory / "prepared"
        target.mkdir(exist_ok=True)
        prepare(job, target, self.notices.append)
        fields: dict[str, Any] = json.loads((target / "config.json").read_text())
        return fields

    def start(self, job: Job | None = None, **recipe: Any) -> Run:
        given = {"steps": 3, "batch_tokens": 64, "save_minutes": 1000.0} | recipe
        return start_run(replace(job or self.job, max_context=48), Recipe(**given), self.output, self.notices.append)

    def finish(self, **recipe: Any) -> Path:
        run = self.start(**recipe)
        run.train(lambda _: None, lambda: False)
        run.export()
        return self.output


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize("name", ["abacus", "mps", "meta", "cpu:x", ""])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="the device is unknown to training"):
        check_machine(Recipe(device=name))


def test_a_device_that_is_not_there_is_refused() -> None:
    check_machine(Recipe(device="cpu"))
    with pytest.raises(ExecutorUnavailableError, match="no such CUDA device"):
        check_machine(Recipe(device=f"cuda:{torch.cuda.device_count()}"))


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ExecutorUnavailableError, match=r"no g\+\+"):
        check_machine(Recipe(compile=True))


@pytest.mark.parametrize("max_context", [48, 500])
def test_the_context_asked_for_is_that_of_the_fresh_model_and_its_tokenizer(world: World, max_context: int) -> None:
    fields = world.prepare(replace(world.job, max_context=max_context))
    assert fields["max_position_embeddings"] == max_context
    assert spec_of(world.directory / "prepared").max_context == max_context
    settings = json.loads((world.directory / "prepared" / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == max_context


def test_without_a_config_the_shape_is_the_default(world: World) -> None:
    fields = world.prepare(Job(data=world.job.data, tokenizer=world.tokenizer()))
    assert {name: fields[name] for name in DEFAULT_CONFIG} == dict(DEFAULT_CONFIG)


def test_a_fresh_model_has_the_tokens_of_its_tokenizer_and_the_user_is_told(world: World) -> None:
    fields = world.prepare(Job(data=world.job.data, tokenizer=world.tokenizer(), config=world.config(vocab_size=9000)))
    assert fields["vocab_size"] < 9000
    assert any("not the 9000" in notice for notice in world.notices)


def test_a_shape_that_leaves_its_context_out_has_that_of_its_family(world: World) -> None:
    shape = {name: value for name, value in CONFIG.items() if name != "max_position_embeddings"}
    (world.directory / "shape.json").write_text(json.dumps(shape))
    fields = world.prepare(replace(world.job, config=str(world.directory / "shape.json"), max_context=40))
    assert fields["max_position_embeddings"] == spec_of(world.directory / "prepared").max_context == 40


def test_token_ids_of_the_tokenizer_of_a_shape_are_left_behind(world: World) -> None:
    fields = world.prepare(replace(world.job, config=world.config(eos_token_id=151_645, bos_token_id=151_643)))
    assert "eos_token_id" not in fields
    assert spec_of(world.directory / "prepared").vocab_size < 151_643


def test_going_on_from_a_tied_model_with_a_head_of_its_own_keeps_both(world: World) -> None:
    model = world.finish()
    fields = json.loads((model / "config.json").read_text())
    tensors = load_file(model / "model.safetensors")
    name = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    save_file(tensors | {"lm_head.weight": tensors[name].flip(0).contiguous()}, model / "model.safetensors")
    (model / "config.json").write_text(json.dumps(fields | {"tie_word_embeddings": True, "auto_map": {"AutoModel": "x.Y"}}))
    job = Job(data=world.job.data, model=str(model))
    written = world.prepare(job)
    assert written["tie_word_embeddings"] is False
    assert "auto_map" not in written
    decoder = new_decoder(job, spec_of(world.directory / "prepared"), Recipe())
    assert torch.equal(decoder.head.weight, decoder.embed.weight.flip(0))


def test_a_learned_position_table_gets_the_rows_that_were_asked_for(world: World) -> None:
    (world.directory / "shape.json").write_text(json.dumps(CONFIGS["gpt2"]))
    fields = world.prepare(replace(world.job, config=str(world.directory / "shape.json"), max_context=40))
    assert (fields["n_positions"], fields["n_ctx"]) == (40, 40)
    assert spec_of(world.directory / "prepared").max_context == 40


def test_a_model_with_fewer_tokens_than_its_tokenizer_is_refused(world: World) -> None:
    model = world.finish()
    (model / "tokenizer.json").write_text((world.directory / "out" / "tokenizer.json").read_text())
    fields = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(fields | {"vocab_size": fields["vocab_size"] - 1}))
    world.prepare(Job(data=world.job.data, model=str(model)))
    with pytest.raises(ConfigError, match="more tokens than the model"):
        spec_of(world.directory / "prepared")


def test_going_on_from_a_model_starts_with_its_weights_and_may_shorten_its_context(world: World) -> None:
    model = world.finish()
    job = Job(data=world.job.data, model=str(model), max_context=32)
    assert world.prepare(job)["max_position_embeddings"] == 32
    decoder = new_decoder(job, spec_of(world.directory / "prepared"), Recipe())
    weights = load_checkpoint(model).weights
    assert all(torch.equal(value, torch.tensor(weights[name].to_float32())) for name, value in decoder.state_dict().items())
    longer = replace(job, max_context=64)
    world.prepare(longer)
    spec = spec_of(world.directory / "prepared")
    with pytest.raises(ConfigError, match="does not fit the model"):
        new_decoder(longer, spec, Recipe())


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"config": "nowhere.json"}, ConfigError, "shape cannot be read"),
        ({"tokenizer": "nowhere"}, TokenizerError, "tokenizer.json"),
        ({"model": "nowhere"}, ConfigError, "nowhere"),
        ({"data": ("nowhere.txt",)}, ConfigError, "nowhere.txt"),
    ],
)
def test_what_is_missing_is_named(world: World, changes: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises((kind, ModelNotFoundError), match=words):
        world.start(replace(world.job, **changes))


def test_an_empty_file_holds_nothing_to_learn(world: World) -> None:
    world.text.write_text("")
    with pytest.raises(ConfigError, match="no text to train a tokenizer on"):
        world.start()
    with pytest.raises(ConfigError, match="nothing to learn"):
        world.start(replace(world.job, tokenizer=world.tokenizer()))


def test_a_directory_that_cannot_be_made_is_named(world: World) -> None:
    world.output.write_text("a file")
    with pytest.raises(ConfigError, match="cannot be created"):
        world.start()


def test_what_was_cut_is_told(world: World) -> None:
    world.start()
    assert any("context of 48 tokens" in notice and notice.endswith(": 1") for notice in world.notices)


def test_validation_files_are_held_out_and_all_data_is_learned(world: World) -> None:
    other = world.directory / "other.txt"
    other.write_text("Rome is the capital of Italy.")
    run = world.start(replace(world.job, validation=(str(other),)), validate_every=1)
    reports: list[StepReport] = []
    run.train(reports.append, lambda: False)
    assert all(report.validation_loss is not None for report in reports)
    other.write_text("Another text.")
    with pytest.raises(CheckpointError, match="validation data has changed"):
        resume_run(world.output, world.notices.append)


def test_a_run_is_not_started_over_another(world: World) -> None:
    world.start()
    with pytest.raises(ConfigError, match="holds a training run already"):
        world.start()


def test_a_run_that_never_took_a_step_continues(world: World) -> None:
    world.start()
    run = resume_run(world.output, world.notices.append)
    assert run.trainer.step == 0
    assert run.train(lambda _: None, lambda: False)


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("training/recipe.json", '"seed": 0', '"seed": 1', r"its recipe .*given: seed 1; limit: seed 0"),
        ("training/model/config.json", '"rope_theta": 10000.0', '"rope_theta": 500.0', r"its shape .*rope_theta 500.0"),
        ("../text.txt", "Paris", "Lyon", "its training data"),
    ],
)
def test_a_run_whose_circumstances_changed_does_not_continue(world: World, name: str, old: str, new: str, words: str) -> None:
    world.start()
    path = world.output / name
    changed = path.read_text(encoding="utf-8").replace(old, new)
    assert changed != path.read_text(encoding="utf-8")
    path.write_text(changed, encoding="utf-8")
    with pytest.raises(CheckpointError, match=words):
        resume_run(world.output, world.notices.append)


def test_a_run_under_another_torch_does_not_continue(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.start()
    monkeypatch.setattr(torch, "__version__", "2.0.1")
    with pytest.raises(CheckpointError, match=r"torch version has changed \(given: 2.0.1"):
        resume_run(world.output, world.notices.append)


def test_a_run_whose_data_vanished_says_so(world: World) -> None:
    world.start()
    world.text.unlink()
    with pytest.raises(CheckpointError, match=r"without its data \(given: no .*text.txt"):
        resume_run(world.output, world.notices.append)


@pytest.mark.parametrize("missing", ["training", "training/job.json", "training/recipe.json", "training/state.safetensors"])
def test_what_is_no_run_cannot_be_continued(world: World, missing: str) -> None:
    world.start()
    path = world.output / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises((ConfigError, CheckpointError), match=r"training run to continue|training state cannot be read"):
        resume_run(world.output, world.notices.append)


def test_a_disk_that_is_full_for_a_while_costs_no_step(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run = world.start(save_minutes=1e-9)
    taken: list[StepReport] = []

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", refuse)
        with pytest.raises(CheckpointError, match="No space left"):
            run.train(taken.append, lambda: len(taken) == 2)
    assert sum("Training continues" in notice for notice in world.notices) == 2
    assert resume_run(world.output, world.notices.append).trainer.step == 0
    run.train(lambda _: None, lambda: False)
    assert resume_run(world.output, world.notices.append).trainer.step == 3


def test_a_run_that_diverges_says_so_and_keeps_the_state_before(world: World) -> None:
    run = world.start(learning_rate=1e25, warmup_steps=0, precision=DType.FLOAT32, steps=9, save_minutes=1e-9)
    with pytest.raises(ExecutorError, match="has diverged"):
        run.train(lambda _: None, lambda: False)
    assert 0 < run.trainer.step < 9
    kept = load_state(world.output / "training" / "state.safetensors", "cpu")
    assert kept.step == run.trainer.step
    assert all(value.isfinite().all() for value in kept.model.values())


def test_a_warm_up_that_outlasts_the_run_is_reported(world: World) -> None:
    world.start(warmup_steps=3)
    assert any("never reaches its peak" in notice for notice in world.notices)
