"""`quire run`: one prompt, one answer. Standard output carries the answer and nothing else."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from quire.cli.options import EngineChoice, SamplingOptions, answer_options, engine_options, gathered
from quire.values import shown_utf8_fault

if TYPE_CHECKING:
    from quire.cli.follow_stream import Answer
    from quire.cli.load import LoadedModel
    from quire.kv.explain import CacheExplanation


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerForm:
    """How the prompt is formatted and the answer shown."""

    system: str | None
    raw: bool
    stats: bool
    explain: bool
    as_json: bool


_FORM_OPTIONS = (
    click.option("--system", metavar="TEXT", help="A system message before the prompt."),
    click.option("--raw", is_flag=True, help="Continue the prompt as plain text, without the model's chat template."),
    click.option("--stats", is_flag=True, help="Print a line of numbers and the use of KV memory on standard error afterwards."),
    click.option(
        "--explain", is_flag=True, help="Say on standard error afterwards what the KV cache did for the prompt, and why."
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of streaming the text."),
)


@click.command()
@click.argument("prompt", required=False)
@lambda command: gathered(command, _FORM_OPTIONS, "form", lambda values: AnswerForm(**values))
@answer_options
@engine_options
def run(prompt: str | None, form: AnswerForm, sampling: SamplingOptions, engine: EngineChoice) -> None:
    """Stream an answer to PROMPT to standard output.

    Without PROMPT, or with `-`, the prompt is read from standard input; one line break at its end is dropped.
    The model's chat template is applied where it has one. Sampling follows the model's generation_config.json and is
    greedy without one. With -n 2 or more, the answers are numbered and shown at the end. Ctrl-C stops the answer (exit code 130).

    \b
    Example:
      quire run "What is the capital of France?"
      git diff | quire run -m path/to/model --max-tokens 200 --stats -
      quire run "Write a haiku." --temperature 0.8 -n 3
      quire run "The capital of France is" --raw --max-tokens 1 --logprobs 5
    """
    if form.raw and form.system is not None:
        raise click.UsageError("--system needs the chat template that --raw leaves out.")
    text = _checked(_read_stdin() if prompt in (None, "-") else prompt)
    from quire.cli.load import load_model

    loaded = load_model(engine, sampling)
    with loaded.llm:
        _answer(loaded, text, form)


def _answer(loaded: LoadedModel, text: str, form: AnswerForm) -> None:
    from quire.cli.display import print_json
    from quire.cli.follow_stream import end_line, follow, follow_all, raise_failure, write_out
    from quire.cli.ledger_view import LedgerSight
    from quire.cli.run_view import json_of, show_logprobs, show_several

    prompt, params = _prompt_of(loaded, text, form), loaded.params
    stream = loaded.llm.stream(prompt, params)
    sight = LedgerSight(loaded.llm)
    if form.stats:
        stream = sight.during(stream)
    is_streamed = params.n == 1 and not form.as_json
    answers = [follow(stream, write_out)] if is_streamed else follow_all(stream, params.n)
    for answer in answers:
        raise_failure(answer)
    if form.as_json:
        print_json(json_of(loaded, answers, _explanations(loaded, answers) if form.explain else ()))
    elif is_streamed:
        end_line(answers[0].text)
        show_logprobs(answers[0])
    else:
        show_several(answers)
    _show_notes(loaded, answers, form)
    if form.stats and not form.as_json:
        sight.show()
    if form.explain and not form.as_json:
        _show_explanations(loaded, answers)
    if answers[0].was_interrupted:
        raise KeyboardInterrupt


def _show_notes(loaded: LoadedModel, answers: list[Answer], form: AnswerForm) -> None:
    from quire.cli.display import show_note
    from quire.cli.follow_stream import note_of_full_context, stats_of_all

    core = loaded.llm.core
    notes = [note_of_full_context(answer, loaded.params, core.scheduler.limits) for answer in answers]
    stats = stats_of_all(answers, core.executor.layout) if form.stats else None
    for note in (next(filter(None, notes), None), None if stats is None else str(stats)):
        if note is not None:
            show_note(note)


def _explanations(loaded: LoadedModel, answers: list[Answer]) -> list[CacheExplanation]:
    """Returns what the cache did for each answer that began."""
    from quire.errors import NotExplainedError

    last = next((answer.last for answer in answers if answer.last is not None), None)
    if last is None:
        return []
    names = [f"{last.request_id}/{index}" for index in range(len(answers))] if len(answers) > 1 else [last.request_id]
    found: list[CacheExplanation] = []
    for name in names:
        with suppress(NotExplainedError):  # one that Ctrl-C came before
            found.append(loaded.llm.explain(name))
    return found


def _show_explanations(loaded: LoadedModel, answers: list[Answer]) -> None:
    from quire.cli.display import err_console
    from quire.cli.explain_view import explanation_view

    explanations, block_size = _explanations(loaded, answers), loaded.llm.core.executor.layout.block_size
    for number, explanation in enumerate(explanations, start=1):
        title = "Prompt" if len(explanations) == 1 else f"Prompt of answer {number}"
        for table in explanation_view(explanation, block_size, title):
            err_console().print(table)


def _prompt_of(loaded: LoadedModel, text: str, form: AnswerForm) -> str | tuple[int, ...]:
    """Returns plain text, or the tokens of a conversation's first turn where the model has a chat template."""
    from quire.cli.load import start_conversation

    if form.raw or (loaded.llm.tokenizer.chat_template is None and form.system is None):
        return text
    conversation = start_conversation(loaded.llm)
    if form.system is not None:
        conversation.add_system(form.system)
    conversation.add_user(text)
    return conversation.prompt_token_ids()


def _read_stdin() -> str:
    if sys.stdin.isatty():
        raise click.UsageError('Give a PROMPT, for example: quire run "Hello", or pipe one in.')
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        fault = shown_utf8_fault(error)
        raise click.UsageError(f"Standard input is not UTF-8 text (given: {fault}). Convert it first.") from error


def _checked(prompt: str | None) -> str:
    """Returns a prompt that is not empty and can be encoded as UTF-8."""
    if not prompt:
        raise click.UsageError("The prompt is empty.")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise click.UsageError(f"The prompt is not UTF-8 text (given: {_fault_of(prompt)}). Convert it first.") from error
    return prompt


def _fault_of(prompt: str) -> str:
    """Returns which byte of a prompt from the command line is not UTF-8: Python passes such bytes as lone surrogates."""
    try:
        prompt.encode(errors="surrogateescape").decode()
    except UnicodeDecodeError as error:
        return shown_utf8_fault(error)
    except UnicodeEncodeError as error:
        return f"a lone surrogate at character {error.start}"
    return "a lone surrogate"
