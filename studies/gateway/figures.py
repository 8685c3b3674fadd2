"""The gateway's figures: the rounds, and the medians that the JSON holds."""

import sys
from collections.abc import Mapping, Sequence
from statistics import median

import msgspec

from studies.gateway.load import Requests
from studies.record import Record


class RequestFigure(msgspec.Struct, frozen=True):
    """Requests by wrk.

    Attributes:
        who: The target: `bare`, `post` or `get`.
        connections: How many connections.
        rate_per_s, rates_per_s: The median of the rates, and the requests a second of each round.
        p50_ms, p99_ms: Percentiles of the time of a request.
    """

    who: str
    connections: int
    rate_per_s: int
    rates_per_s: list[int]
    p50_ms: float
    p99_ms: float


class BatchFigure(msgspec.Struct, frozen=True):
    """Requests with many messages each.

    Attributes:
        type: Media type of the body.
        messages, requests: Messages a request, and requests a round.
        rate_per_s, rates_per_s: The median of the rates, and the messages a second of each round.
    """

    type: str
    messages: int
    requests: int
    rate_per_s: int
    rates_per_s: list[int]


class CpuFigure(msgspec.Struct, frozen=True):
    """CPU time that a message posted singly takes of each process, in milliseconds."""

    connections: int
    gateway: float
    sender: float
    rabbitmq: float
    redis: float


class GatewayRecord(Record, frozen=True, kw_only=True):
    """The results of `make bench-gateway`.

    Attributes:
        rounds, scale: How many rounds the medians are over, and the factor on times and counts.
        seconds: How long wrk ran each time.
        sending: The sender's settings.
        batches_at_once: Clients that post many messages a request.
        messages: How many messages were accepted in all.
        requests, batches, cpu_ms_a_message: The figures.
    """

    rounds: int
    scale: float
    seconds: int
    sending: dict[str, str]
    batches_at_once: int
    messages: int
    requests: list[RequestFigure]
    batches: list[BatchFigure]
    cpu_ms_a_message: list[CpuFigure]


class Figures:
    """Collects rounds."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, int], list[Requests]] = {}
        self._batches: dict[tuple[str, int, int], list[float]] = {}
        self._cpu: dict[int, list[Mapping[str, float]]] = {}

    def add_requests(self, who: str, connections: int, seen: Requests) -> None:
        """A run of wrk."""
        self._requests.setdefault((who, connections), []).append(seen)
        _print(f"{who}, {connections} connections: {seen.rate_per_s:,.0f}/s, p99 {1e3 * seen.p99_s:.1f} ms")

    def add_cpu(self, connections: int, ms_a_message: Mapping[str, float]) -> None:
        """CPU time a message of each process."""
        self._cpu.setdefault(connections, []).append(ms_a_message)

    def add_batches(self, kind: str, messages: int, requests: int, rate_per_s: float) -> None:
        """Requests of one size and media type."""
        self._batches.setdefault((kind, messages, requests), []).append(rate_per_s)
        _print(f"{requests} requests of {messages:,}, {kind}: {rate_per_s:,.0f} messages/s")

    def requests(self) -> list[RequestFigure]:
        """The medians of wrk's runs."""
        return [
            RequestFigure(
                who=who,
                connections=connections,
                rate_per_s=round(median(one.rate_per_s for one in rounds)),
                rates_per_s=[round(one.rate_per_s) for one in rounds],
                p50_ms=_ms([one.p50_s for one in rounds]),
                p99_ms=_ms([one.p99_s for one in rounds]),
            )
            for (who, connections), rounds in self._requests.items()
        ]

    def batches(self) -> list[BatchFigure]:
        """The medians of requests with many messages."""
        return [
            BatchFigure(kind, messages, requests, round(median(rates)), [round(rate) for rate in rates])
            for (kind, messages, requests), rates in self._batches.items()
        ]

    def cpu(self) -> list[CpuFigure]:
        """The medians of the CPU times."""
        return [
            CpuFigure(
                connections, **{name: round(median(one[name] for one in rounds), 4) for name in rounds[0]}
            )
            for connections, rounds in self._cpu.items()
        ]


def _ms(times_s: Sequence[float]) -> float:
    return round(1e3 * median(times_s), 2)


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
