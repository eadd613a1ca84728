"""What the services' own metrics add to what the log tells: live tokens per second, open streams, takeovers.

The endpoints are those that `--metrics` names, or that `make run` in this folder shows.
"""

import asyncio
import json
import math
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from deploy.local.access import is_local

_TIMEOUT_S = 1.0
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""A proxy that the environment names knows nothing of this machine's addresses."""
_GENERATED = "chatmesh_generated_tokens_total"
_STREAMS = "chatmesh_active_streams"
_TAKEOVERS = "chatmesh_generation_takeovers_total"
_WANTED = frozenset({_GENERATED, _STREAMS, _TAKEOVERS})

Sums = dict[str, float]
"""The sum of a metric's samples over all their labels, by the samples' name."""


@dataclass(frozen=True, slots=True)
class Scraped:
    """`answered` of `asked` endpoints. Rates are since the look before, None at the first."""

    asked: int
    answered: int
    streams: int
    takeovers: int
    tokens_per_s: float | None


def sums(exposition: str) -> Sums:
    """What an endpoint's text comes to. Raises ValueError for what is no exposition. Pure."""
    found: Sums = {}
    try:
        for family in text_string_to_metric_families(exposition):
            for sample in family.samples:
                if sample.name in _WANTED:
                    found[sample.name] = found.get(sample.name, 0.0) + sample.value
    except IndexError as error:  # the parser's own, at some texts without an end
        raise ValueError("no exposition") from error
    if not all(map(math.isfinite, found.values())):
        raise ValueError("a metric of ours is no number")
    return found


def urls_of_run(targets_file: Path) -> list[str]:
    """The endpoints of the run whose targets stand in that file, in the format of Prometheus' `file_sd_configs`."""
    try:
        groups = json.loads(targets_file.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return []
    return [f"http://{target}/metrics" for group in groups for target in group["targets"]]


class Scraper:
    """Asks the endpoints, and remembers what their counters said."""

    def __init__(self, urls: Iterable[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._urls = list(urls)
        self._clock = clock
        self._generated: dict[str, float] = {}
        self._asked_s = 0.0

    async def scrape(self) -> Scraped | None:
        """None where there is nobody to ask."""
        if not self._urls:
            return None
        answers = await asyncio.gather(*(asyncio.to_thread(_ask, url) for url in self._urls))
        return self.take({url: of for url, of in zip(self._urls, answers, strict=True) if of is not None})

    def take(self, found: Mapping[str, Sums]) -> Scraped:
        """What the endpoints' sums come to, by URL. Pure but for the clock."""
        now_s = self._clock()
        generated = {url: of[_GENERATED] for url, of in found.items() if _GENERATED in of}
        # A process that was replaced counts from zero again; one that was not there before has no rate yet.
        known = [url for url in generated if url in self._generated]
        grown = sum(max(0.0, generated[url] - self._generated[url]) for url in known)
        rate = grown / (now_s - self._asked_s) if self._generated and now_s > self._asked_s else None
        self._generated, self._asked_s = generated, now_s
        return Scraped(
            asked=len(self._urls),
            answered=len(found),
            streams=int(sum(of.get(_STREAMS, 0.0) for of in found.values())),
            takeovers=int(sum(of.get(_TAKEOVERS, 0.0) for of in found.values())),
            tokens_per_s=rate,
        )


def _ask(url: str) -> Sums | None:
    """None where nobody answers, or not with metrics."""
    try:
        ask = _DIRECTLY.open if is_local(url) else urllib.request.urlopen
        with ask(url, timeout=_TIMEOUT_S) as reply:
            return sums(reply.read().decode("utf-8", "replace"))
    except (OSError, HTTPException, ValueError):
        return None
