"""What `GET /metrics` says, read by Prometheus' own parser."""

from __future__ import annotations

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from support.served import Served

Labels = tuple[tuple[str, str], ...]


class Page:
    """One scrape. Values are found by name and labels: `page.value("quire_requests", state="running")`."""

    def __init__(self, text: str) -> None:
        families = list(text_string_to_metric_families(text))
        self.kinds = {family.name: family.type for family in families}
        self.values: dict[tuple[str, Labels], float] = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in families for sample in family.samples
        }

    @property
    def names(self) -> set[str]:
        """The metrics as they are asked for; a counter's ends with `_total`."""
        return {f"{name}_total" if kind == "counter" else name for name, kind in self.kinds.items()}

    def value(self, name: str, **labels: str) -> float:
        """Returns the value of one series."""
        return self.values[name, tuple(sorted(labels.items()))]


def scrape(server: Served) -> Page:
    """Returns what a server's metrics are now."""
    answer = httpx2.get(f"{server.url}/metrics", timeout=60)
    answer.raise_for_status()
    return Page(answer.text)
