"""The progress of a training run: a bar on a terminal, a few lines where no one watches."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from quire.cli.train_progress import TrainProgress
from quire.train.loop import StepReport

NUM_STEPS = 40


def report(step: int, loss: float, validation_loss: float | None = None) -> StepReport:
    return StepReport(
        step=step,
        num_steps=NUM_STEPS,
        tokens=100 * step,
        seconds=0.5 * step,
        loss=loss,
        learning_rate=1e-3,
        gradient_norm=1.0,
        tokens_per_second=200.0,
        seconds_of_step=0.5,
        flops=1e9,
        validation_loss=validation_loss,
    )


def shown(monkeypatch: pytest.MonkeyPatch, reports: list[StepReport], *, is_terminal: bool) -> str:
    console = Console(file=StringIO(), width=120, force_terminal=is_terminal, color_system=None)
    monkeypatch.setattr("quire.cli.train_progress.err_console", lambda: console)
    with TrainProgress(reports[0].step - 1, NUM_STEPS, peak_flops=1e10) as progress:
        for each in reports:
            progress.show(each)
        progress.note("A note.")
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_without_a_terminal_the_first_step_the_last_and_validations_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    reports = [report(step, 2.0, 1.5 if step == 20 else None) for step in range(1, NUM_STEPS + 1)]
    assert shown(monkeypatch, reports, is_terminal=False).splitlines() == [
        "1/40  loss 2.0000  rate 1.0e-03  200 tokens/s  MFU 20%",
        "step 20: validation loss 1.5000",
        "40/40  loss 2.0000  rate 1.0e-03  200 tokens/s  MFU 20%",
        "A note.",
    ]


def test_a_minute_later_there_is_another_line(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1000.0, 1000.0, 1030.0, 1061.0, 1061.0])
    monkeypatch.setattr("quire.cli.train_progress.time.monotonic", lambda: next(clock, 1061.0))
    lines = shown(monkeypatch, [report(step, 2.0) for step in (1, 2, 3)], is_terminal=False).splitlines()
    assert [line.split()[0] for line in lines] == ["1/40", "3/40", "A"]


def test_the_loss_shown_is_a_running_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, [report(39, 3.0), report(40, 1.0)], is_terminal=False).splitlines()
    assert "loss 3.0000" in lines[0]
    assert "loss 2.9000" in lines[1]


def test_a_terminal_gets_a_bar_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, [report(step, 2.0, 1.5 if step == 20 else None) for step in range(11, 21)], is_terminal=True)
    assert "20/40  loss 2.0000" in text
    assert "step 20: validation loss 1.5000" in text
    assert ":" in text.rsplit("MFU 20%", 1)[1]
