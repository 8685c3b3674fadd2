"""The gateway's figures: what each round gave, and the medians that the JSON holds."""

import sys
from collections.abc import Sequence
from statistics import median
from typing import Any

from studies.gateway.load import Requests

POST, GET = "POST", "GET"


class Figures:
    """Gathers rounds. Rates are requests or messages per second, times milliseconds."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, int], list[Requests]] = {}
        self._batches: dict[tuple[str, int, int], list[float]] = {}
        self._cpu: dict[int, list[dict[str, float]]] = {}

    def add_requests(self, who: str, connections: int, seen: Requests) -> None:
        """A run of wrk."""
        self._requests.setdefault((who, connections), []).append(seen)
        _say(f"{who}, {connections} connections: {seen.rate_per_s:,.0f}/s, p99 {1e3 * seen.p99_s:.1f} ms")

    def add_cpu(self, connections: int, ms_a_message: dict[str, float]) -> None:
        """What messages that were posted singly took of each process, in milliseconds of CPU time a message."""
        self._cpu.setdefault(connections, []).append(ms_a_message)

    def add_batches(self, kind: str, messages: int, requests: int, rate_per_s: float) -> None:
        """Batches of one size and media type."""
        self._batches.setdefault((kind, messages, requests), []).append(rate_per_s)
        _say(f"{requests} batches of {messages:,}, {kind}: {rate_per_s:,.0f} messages/s")

    def results(self) -> dict[str, Any]:
        """Medians over the rounds, with all rates, as JSON values."""
        return {
            "requests": [
                {
                    "who": who,
                    "connections": connections,
                    **_rates([one.rate_per_s for one in rounds]),
                    "p50_ms": _ms([one.p50_s for one in rounds]),
                    "p99_ms": _ms([one.p99_s for one in rounds]),
                }
                for (who, connections), rounds in self._requests.items()
            ],
            "batches": [
                {"type": kind, "messages": messages, "requests": requests, **_rates(rates)}
                for (kind, messages, requests), rates in self._batches.items()
            ],
            "cpu_ms_a_message": [
                {
                    "connections": connections,
                    **{name: round(median(one[name] for one in rounds), 4) for name in rounds[0]},
                }
                for connections, rounds in self._cpu.items()
            ],
        }


def _rates(rates: Sequence[float]) -> dict[str, Any]:
    return {"rate_per_s": round(median(rates)), "rates_per_s": [round(rate) for rate in rates]}


def _ms(times_s: Sequence[float]) -> float:
    return round(1e3 * median(times_s), 2)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
