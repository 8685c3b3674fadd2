"""The figures of `make bench` as markdown."""

from dataclasses import dataclass

from studies.bench.figures import BOTH, CONSUME, EMBEDDED, OURS, PUBLISH, BenchRecord, Figure, PeerNote
from studies.bench.peers.catalogue import C_CLIENT
from studies.page import Column, spread, table


@dataclass(frozen=True)
class Compared:
    """Who is compared, by the figures of one message per AMQP message.

    Attributes:
        who: Ours, or a peer.
        works: The figures by work.
        times: Our rate with both at once, divided by theirs.
    """

    who: str
    works: dict[str, Figure]
    times: float | None

    @property
    def both(self) -> Figure:
        """The figure of both at once."""
        return self.works[BOTH]


def markdown(record: BenchRecord) -> str:
    """All tables, with a sentence to each."""
    parts = []
    if any(figure.who not in (OURS, EMBEDDED) for figure in record.figures):
        parts += [
            "One message per AMQP message. CPU time and memory are of both at once; the JSON has the others.",
            table(COMPARED, compared(record)),
            *_verdict(record),
        ]
    parts += [f"Not measured: {peer.name}: {peer.failure}." for peer in record.peers if peer.failure]
    if ours := [figure for figure in record.figures if figure.who in (OURS, EMBEDDED)]:
        parts += ["Ours, in batches too:", table(OWN, ours)]
    parts.append(
        f"{record.conditions} Medians of {record.rounds} rounds; {record.sender_concurrency:,} slots a sender."
    )
    if record.peers:
        parts += ["How the peers are set up:", table(PEERS, record.peers)]
    return "\n\n".join(parts)


def compared(record: BenchRecord) -> list[Compared]:
    """Ours and the peers at one message per AMQP message; the fastest at both at once comes first."""
    by_who: dict[str, dict[str, Figure]] = {}
    for figure in record.figures:
        if figure.batch_size == 1:
            by_who.setdefault(figure.who, {})[figure.work] = figure
    ours = by_who.get(OURS, {}).get(BOTH)
    rows = [
        Compared(who, works, ours.rate_per_s / works[BOTH].rate_per_s if ours else None)
        for who, works in by_who.items()
    ]
    return sorted(rows, key=lambda row: row.both.rate_per_s, reverse=True)


def _verdict(record: BenchRecord) -> list[str]:
    """Ours beside the best Python peer and the C client, in a sentence."""
    rows = [row for row in compared(record) if row.who != OURS and row.times]
    best = next((row for row in rows if row.who != C_CLIENT), None)
    c_client = next((row for row in rows if row.who == C_CLIENT), None)
    found = []
    if best:
        found.append(f"{best.times:.1f} times what the best Python peer does ({best.who})")
    if c_client:
        found.append(f"{c_client.times:.0%} of what the C client does, which keeps no counters")
    return [f"With both at once, ours does {' and '.join(found)}."] if found else []


def _times(row: Compared) -> str:
    if row.who == OURS or row.times is None:
        return ""
    return f"{row.times:.2f}" if row.times < 10 else f"{row.times:.0f}"


def _cpu(figure: Figure, process: str) -> str:
    """CPU seconds for a million messages. An embedded run is producer and sender in one process."""
    costs = figure.cpu_s_per_million
    cost = costs.get(process, costs.get(EMBEDDED) if process == "sender" else None)
    return "" if cost is None else f"{cost:.0f}" if cost >= 100 else f"{cost:.1f}"


def _peak(figure: Figure, process: str) -> str:
    costs = figure.peak_rss_mb
    cost = costs.get(process, costs.get(EMBEDDED) if process == "sender" else None)
    return "" if cost is None else f"{cost:.0f}"


def _links(peer: PeerNote) -> str:
    return ", ".join(f"[{number}]({link})" for number, link in enumerate(peer.docs, 1))


COMPARED = (
    Column[Compared]("who", lambda row: f"**{row.who}**" if row.who == OURS else row.who, left=True),
    Column[Compared]("publish/s", lambda row: f"{row.works[PUBLISH].rate_per_s:,}"),
    Column[Compared]("consume/s", lambda row: f"{row.works[CONSUME].rate_per_s:,}"),
    Column[Compared](
        "both at once/s (lowest to highest)", lambda row: spread(row.both.rate_per_s, row.both.rates_per_s)
    ),
    Column[Compared]("ours / it", _times),
    Column[Compared]("CPU s per million: producer", lambda row: _cpu(row.both, "producer")),
    Column[Compared]("worker", lambda row: _cpu(row.both, "sender")),
    Column[Compared]("RabbitMQ", lambda row: _cpu(row.both, "rabbitmq")),
    Column[Compared]("Redis", lambda row: _cpu(row.both, "redis")),
    Column[Compared]("peak MB: producer", lambda row: _peak(row.both, "producer")),
    Column[Compared]("worker", lambda row: _peak(row.both, "sender")),
)
OWN = (
    Column[Figure]("work", lambda one: one.work, left=True),
    Column[Figure]("batch", lambda one: str(one.batch_size or "fitting")),
    Column[Figure]("messages", lambda one: f"{one.messages:,}"),
    Column[Figure]("messages/s (lowest to highest)", lambda one: spread(one.rate_per_s, one.rates_per_s)),
    Column[Figure]("CPU s per million: producer", lambda one: _cpu(one, "producer")),
    Column[Figure]("sender", lambda one: _cpu(one, "sender")),
    Column[Figure]("RabbitMQ", lambda one: _cpu(one, "rabbitmq")),
    Column[Figure]("Redis", lambda one: _cpu(one, "redis")),
    Column[Figure]("peak MB: producer", lambda one: _peak(one, "producer")),
    Column[Figure]("sender", lambda one: _peak(one, "sender")),
)
PEERS = (
    Column[PeerNote]("peer", lambda peer: peer.name, left=True),
    Column[PeerNote]("publishes", lambda peer: peer.publishes, left=True),
    Column[PeerNote]("works", lambda peer: peer.works, left=True),
    Column[PeerNote]("as advised in", _links, left=True),
)
