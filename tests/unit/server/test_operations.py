"""What docs/operations.md and the dashboard say is what the server measures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from quire.server.metrics import Metrics
from quire.text.tokenizer import Tokenizer
from support.fake_engine import FakeExecutor, make_core, write_tokenizer
from support.metrics_page import Page

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
DASHBOARD = json.loads((ROOT / "deploy" / "grafana-quire.json").read_text(encoding="utf-8"))
_NAME = re.compile(r"quire_[a-z0-9_]+")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The metrics of a server whose model is loaded."""
    directory = tmp_path_factory.mktemp("model")
    write_tokenizer(directory)
    metrics = Metrics()
    metrics.engine.watch(make_core(FakeExecutor(), Tokenizer.from_directory(directory)))
    return Page(metrics.page().decode())


def _expressions() -> list[str]:
    targets: list[Any] = [target for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    return [target["expr"] for target in targets]


def test_document_explains_every_metric_and_no_other(page: Page) -> None:
    table = DOCUMENT.partition("## Metrics")[2].partition("## Alerts")[0]
    explained = re.findall(r"^\| `(quire_\w+)` \|", table, re.MULTILINE)
    assert len(explained) == len(set(explained))
    assert set(explained) == page.names


def test_document_and_dashboard_name_metrics_that_exist(page: Page) -> None:
    known = page.names | {name for name, _ in page.values}
    for text in (DOCUMENT, *_expressions()):
        assert set(_NAME.findall(text)) - known == set()


def test_dashboard_shows_every_metric(page: Page) -> None:
    shown = {name for expression in _expressions() for name in _NAME.findall(expression)}
    suffixes = ("", "_bucket", "_sum", "_count")
    assert [name for name in page.names if not any(f"{name}{suffix}" in shown for suffix in suffixes)] == []


def test_labels_in_the_document_exist(page: Page) -> None:
    series = {(name, labels) for name, labels in page.values}
    for name, label, value in re.findall(r"(quire_\w+)\{(\w+)=\"(\w+)\"\}", DOCUMENT):
        assert (name, ((label, value),)) in series


def test_panels_have_places_of_their_own() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
