"""The KV ledger as tables."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from quire.cli.ledger_view import MAX_ROWS, LedgerView
from quire.engine.kv_ledger import kv_ledger
from quire.kv.holdings import KVLedger
from quire.text.tokenizer import Tokenizer
from support.fake_engine import BLOCK_SIZE, FakeExecutor, make_core, run_all, submission, write_tokenizer

PREFIX = tuple(position % 26 for position in range(2 * BLOCK_SIZE))


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    write_tokenizer(tmp_path)
    return Tokenizer.from_directory(tmp_path)


def _shown(ledger: KVLedger, tokenizer: Tokenizer) -> str:
    console = Console(file=StringIO(), width=160)
    for table in LedgerView(ledger, tokenizer).tables():
        console.print(table)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_requests_show_their_shares_and_prefixes_their_texts_and_turns(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(), tokenizer)
    run_all(core, submission("gone", (*PREFIX[1:], 3, 4), max_tokens=1))
    for name in ("first", "second"):
        core.submit(submission(name, (*PREFIX, ord(name[0]) % 26), max_tokens=60, ignore_eos=True))
        core.step()
    ledger = kv_ledger(core)
    shown = _shown(ledger, tokenizer)
    assert "first" in shown
    assert "3 (2)" in shown
    assert f"{ledger.waste:.1%}" in shown
    assert "'abcdefgh" in shown
    assert "not while it is held" in shown
    assert "more blocks, about" in shown
    assert "Held by tenants" not in shown


def test_tenants_are_listed_where_there_are_several(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(), tokenizer)
    for tenant in ("", "acme"):
        core.submit(replace(submission(f"of {tenant}", PREFIX, max_tokens=60, ignore_eos=True), tenant=tenant))
    core.step()
    shown = _shown(kv_ledger(core), tokenizer)
    assert "Held by tenants" in shown
    assert "acme" in shown
    assert "(none)" in shown


def test_long_tables_say_how_much_is_left_out(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(), tokenizer, max_num_seqs=20)
    for number in range(MAX_ROWS + 3):
        core.submit(submission(f"r{number}", (number, 1), max_tokens=60, ignore_eos=True))
    core.step()
    assert f"Held by requests: {MAX_ROWS} of {MAX_ROWS + 3}" in _shown(kv_ledger(core), tokenizer)


def test_empty_pool_has_one_table(tokenizer: Tokenizer) -> None:
    tables = list(LedgerView(kv_ledger(make_core(FakeExecutor(), tokenizer)), tokenizer).tables())
    assert [table.title for table in tables] == ["KV memory"]
