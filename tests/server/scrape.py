"""What Prometheus would get of a server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from urllib.request import urlopen

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from ..protocol.peer import PATIENCE

__all__ = ["Scrape", "metrics_address", "scrape", "scrape_until"]

PREFIX = "session_service_"


class Scrape:
    """All metrics at one time.

    Attributes:
        metrics: as the parser of prometheus_client has found them.
    """

    def __init__(self, text: str) -> None:
        self.metrics: list[Metric] = list(text_string_to_metric_families(text))

    def __call__(self, name: str, **labels: str) -> float:
        """Return the sum of our samples of a name that have these labels; there must be one."""
        found = [
            sample.value
            for metric in self.metrics
            for sample in metric.samples
            if sample.name == PREFIX + name and labels.items() <= sample.labels.items()
        ]
        assert found, (name, labels)
        return sum(found)

    def nonzero(self, name: str, label: str) -> Mapping[str, float]:
        """Return our samples of a name that are not 0, by a label."""
        return {
            sample.labels[label]: sample.value
            for metric in self.metrics
            for sample in metric.samples
            if sample.name == PREFIX + name and sample.value
        }


async def scrape(address: str) -> Scrape:
    """Ask once."""

    def get() -> str:
        with urlopen(f"http://{address}/metrics", timeout=PATIENCE) as response:
            text = response.read().decode()
            assert isinstance(text, str)
            return text

    return Scrape(await asyncio.to_thread(get))


async def scrape_until(address: str, condition: Callable[[Scrape], object]) -> Scrape:
    """Ask until it is so."""
    async with asyncio.timeout(PATIENCE):
        while not condition(found := await scrape(address)):
            pass
    return found


def metrics_address(log: str) -> str:
    """Return the address that a server has logged."""
    (address,) = re.findall(r"metrics at http://([\d.:]+)/metrics", log)
    assert isinstance(address, str)
    return address
