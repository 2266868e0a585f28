"""What commands print for machines."""

from __future__ import annotations

import json
import math

import pytest

from quire.cli.display import print_json


def test_numbers_that_json_lacks_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"perplexity": math.inf, "tokens": [{"logprob": -math.inf}, {"logprob": -0.5}], "pair": (1, math.nan)})
    printed = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert printed == {"perplexity": None, "tokens": [{"logprob": None}, {"logprob": -0.5}], "pair": [1, None]}
