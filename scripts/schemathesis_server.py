"""Asks a server what its OpenAPI file says, rightly and wrongly: `python scripts/schemathesis_server.py [EXAMPLES [FIRST_SEED]]`.

Ends with an error at the first answer that is a 5xx or that the file does not describe. By default 200 examples an operation,
with valid data and with invalid data each.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from schemathesis import GenerationMode

from quire.server.limits import Limits
from quire.server.openapi import openapi
from quire.server.serving import Access
from support.openapi_checks import check_operation, operations_of, with_ids_below
from support.served import served

KEY = "a-key-of-this-script"


def main(num_examples: int, first_seed: int) -> None:
    with served(access=Access(port=0, keys=(KEY,)), options={"max_context": 256}) as running:
        document = with_ids_below(openapi(Limits()), running.service.vocab_size)
        for operation in operations_of(document, running.url, KEY):
            for mode in GenerationMode if operation.body else (GenerationMode.POSITIVE,):
                began_s = time.monotonic()
                check_operation(operation, mode, num_examples, first_seed)
                print(f"{operation.label}: {mode.value} data, {time.monotonic() - began_s:.0f} s", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
