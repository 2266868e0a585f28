"""Prints what smaller keys and values cost: a table, what the model recalls, and the verdict in one line."""

from __future__ import annotations

from quire.bench.kv_quality import KVFormatQuality, KVLoss, KVQualityReport
from quire.cli.display import listing, out_console

_HEADERS = ("K/V", "of bfloat16>", "context>", "KL mean>", "KL 99 %>", "KL max>", "same top-1>", "of answers>", "recall>")


def show_kv_quality(report: KVQualityReport, max_kl: float) -> None:
    """Prints every KV format at every context, and the smallest one within a loss."""
    console = out_console()
    rows = [_kv_row(each, loss) for each in report.formats for loss in each.losses]
    console.print(listing("K/V against bfloat16 K/V, the weights as they are loaded", _HEADERS, rows))
    if (base := report.recall_of_bfloat16) is not None:
        console.print(f"With bfloat16 K/V the model recalls {base.num_right} of {base.num_asked} facts.")
    if report.exact_key_layers:
        layers = ", ".join(map(str, report.exact_key_layers))
        console.print(f"Large key biases in layers {layers}: their keys stay bfloat16 in quantized formats.")
    console.print(_verdict(report, max_kl))


def _kv_row(found: KVFormatQuality, loss: KVLoss) -> tuple[str, ...]:
    tokens, recall = loss.tokens, found.recall
    return (
        found.kv,
        f"{found.share:.2f}x",
        str(loss.context),
        f"{tokens.kl_mean:.2e}",
        f"{tokens.kl_p99:.2e}",
        f"{tokens.kl_max:.2e}",
        f"{tokens.top1:.2%}",
        "" if loss.answers is None else f"{loss.answers.top1:.2%}",
        "" if recall is None else f"{recall.num_right} of {recall.num_asked}",
    )


def _verdict(report: KVQualityReport, max_kl: float) -> str:
    """Returns the smallest format within the loss, in one line."""
    smallest = report.smallest_within(max_kl)
    if smallest is None:
        return f"No KV format smaller than bfloat16 loses at most {max_kl:g} nats per token."
    return (
        f"The smallest KV format that loses at most {max_kl:g} nats per token: {smallest.kv}, {smallest.share:.2f}x of bfloat16, "
        f"{smallest.worst_kl:.2e}."
    )
