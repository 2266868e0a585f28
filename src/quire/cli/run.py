"""`quire run`: one prompt, one answer. Standard output carries the answer and nothing else."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from quire.cli.options import EngineChoice, SamplingOptions, engine_options, gathered, sampling_options

if TYPE_CHECKING:
    from quire.cli.answer import Answer
    from quire.cli.opening import OpenedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerForm:
    """How the prompt is put and the answer shown."""

    system: str | None
    raw: bool
    stats: bool
    as_json: bool


_FORM_OPTIONS = (
    click.option("--system", metavar="TEXT", help="A system message before the prompt."),
    click.option("--raw", is_flag=True, help="Continue the prompt as plain text, without the model's chat template."),
    click.option("--stats", is_flag=True, help="Print one line of numbers on standard error afterwards."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of streaming the text."),
)


@click.command()
@click.argument("prompt", required=False)
@lambda command: gathered(command, _FORM_OPTIONS, "form", lambda values: AnswerForm(**values))
@sampling_options
@engine_options
def run(prompt: str | None, form: AnswerForm, sampling: SamplingOptions, engine: EngineChoice) -> None:
    """Answer PROMPT on standard output, as it comes.

    Without PROMPT, or with `-`, the prompt is read from standard input; one line break at its end is dropped.
    The model's chat template is applied where it has one. Sampling follows the model's generation_config.json and is
    greedy without one. Ctrl-C stops the answer (exit code 130).

    \b
    Example:
      quire run "What is the capital of France?"
      git diff | quire run -m path/to/model --max-tokens 200 --stats -
    """
    if form.raw and form.system is not None:
        raise click.UsageError("--system needs the chat template that --raw leaves out.")
    text = _checked(_read_stdin() if prompt in (None, "-") else prompt)
    from quire.cli.opening import open_model

    opened = open_model(engine, sampling)
    with opened.llm:
        _answer(opened, text, form)


def _answer(opened: OpenedModel, text: str, form: AnswerForm) -> None:
    from quire.cli.answer import end_line, follow, note_of_full_context, raise_failure, stats_of, write_out
    from quire.cli.display import print_json, show_note

    llm = opened.llm
    stream = llm.stream(_prompt_of(opened, text, form), opened.params)
    answer = follow(stream, _discard if form.as_json else write_out)
    raise_failure(answer)
    stats = stats_of(answer, llm.core.executor.layout)
    if form.as_json:
        print_json(_as_json(opened, answer))
    else:
        end_line(answer.text)
    for note in (note_of_full_context(answer, opened.params), str(stats) if form.stats and stats is not None else None):
        if note is not None:
            show_note(note)
    if answer.was_interrupted:
        raise KeyboardInterrupt


def _prompt_of(opened: OpenedModel, text: str, form: AnswerForm) -> str | tuple[int, ...]:
    """Returns plain text, or the tokens of a conversation's first turn where the model has a chat template."""
    from quire.cli.opening import start_conversation

    if form.raw or (opened.llm.tokenizer.chat_template is None and form.system is None):
        return text
    conversation = start_conversation(opened.llm)
    if form.system is not None:
        conversation.add_system(form.system)
    conversation.add_user(text)
    return conversation.prompt_token_ids()


def _as_json(opened: OpenedModel, answer: Answer) -> dict[str, Any]:
    from quire.cli.answer import stats_of

    stats, last = stats_of(answer, opened.llm.core.executor.layout), answer.last
    numbers: dict[str, Any] = {}
    if stats is not None and last is not None:
        numbers = {
            "stop_reason": last.outputs[0].stop_reason,
            "seed": last.outputs[0].seed,
            "num_prompt_tokens": stats.num_prompt_tokens,
            "num_cached_tokens": stats.num_cached_tokens,
            "num_output_tokens": stats.num_output_tokens,
            "ttft_s": stats.ttft_s,
            "e2e_s": stats.e2e_s,
            "tokens_per_s": stats.tokens_per_s,
            "kv_bytes": stats.kv_bytes,
        }
    head = {"model": opened.name, "text": answer.text, "finish_reason": answer.finish_reason.value}
    return head | {"token_ids": answer.token_ids} | numbers


def _read_stdin() -> str:
    if sys.stdin.isatty():
        raise click.UsageError('Give a PROMPT, for example: quire run "Hello", or pipe one in.')
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise click.UsageError("Standard input is not UTF-8 text; convert it first.") from error


def _checked(prompt: str | None) -> str:
    """Returns a prompt that is there and can be written as UTF-8."""
    if not prompt:
        raise click.UsageError("The prompt is empty.")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise click.UsageError("The prompt is not UTF-8 text.") from error
    return prompt


def _discard(_text: str) -> None:
    """Takes the place of a writer where the whole answer is printed at the end."""
