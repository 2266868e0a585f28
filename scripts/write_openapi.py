"""Writes the server's OpenAPI file: `python scripts/write_openapi.py > docs/openapi.json`."""

from __future__ import annotations

import json

from quire.server.limits import Limits
from quire.server.openapi import openapi

if __name__ == "__main__":
    print(json.dumps(openapi(Limits()), indent=1))
