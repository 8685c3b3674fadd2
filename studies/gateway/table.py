"""The gateway's figures as markdown."""

from dataclasses import dataclass

from studies.gateway.figures import BatchFigure, CpuFigure, GatewayRecord, RequestFigure
from studies.gateway.load import JSON
from studies.page import Column, spread, table


@dataclass(frozen=True)
class Singles:
    """`POST /sms` at one number of connections, beside the route that does nothing."""

    post: RequestFigure
    bare: RequestFigure


@dataclass(frozen=True)
class Batches:
    """Requests with one number of messages, as a JSON array and as NDJSON."""

    array: BatchFigure
    ndjson: BatchFigure


def markdown(record: GatewayRecord) -> str:
    """All tables, with a sentence to each."""
    return "\n\n".join(
        [
            "`POST /sms`, one message a request, each answered with 202:",
            table(SINGLES, _singles(record)),
            "CPU time of each process for a message, in milliseconds, until wrk left:",
            table(CPU, record.cpu_ms_a_message),
            f"`POST /sms/batch`, {record.batches_at_once} requests at a time:",
            table(BATCHES, _batches(record)),
            *(_get(one) for one in record.requests if one.who == "get"),
            f"{record.messages:,} messages were accepted in all, and every one was sent or failed.",
            f"{record.conditions} Medians of {record.rounds} rounds of {record.seconds} s;"
            f" the sender has {int(record.sending['SENDER_CONCURRENCY']):,} slots and takes"
            f" {record.sending['MEAN_PROCESSING_TIME']} s a send.",
        ]
    )


def _singles(record: GatewayRecord) -> list[Singles]:
    bare = {one.connections: one for one in record.requests if one.who == "bare"}
    return [Singles(post, bare[post.connections]) for post in record.requests if post.who == "post"]


def _batches(record: GatewayRecord) -> list[Batches]:
    ndjson = {one.messages: one for one in record.batches if one.type != JSON}
    return [Batches(array, ndjson[array.messages]) for array in record.batches if array.type == JSON]


def _rate(figure: RequestFigure | BatchFigure) -> str:
    return spread(figure.rate_per_s, figure.rates_per_s)


def _get(figure: RequestFigure) -> str:
    return (
        f"`GET /sms/{{uuid}}` of settled messages, {figure.connections} connections: {_rate(figure)} requests/s,"
        f" p50 {figure.p50_ms:.1f} ms, p99 {figure.p99_ms:.1f} ms."
    )


SINGLES = (
    Column[Singles]("connections", lambda row: str(row.post.connections)),
    Column[Singles]("accepted/s (lowest to highest)", lambda row: _rate(row.post)),
    Column[Singles]("p50", lambda row: f"{row.post.p50_ms:.1f} ms"),
    Column[Singles]("p99", lambda row: f"{row.post.p99_ms:.1f} ms"),
    Column[Singles]("route that does nothing/s", lambda row: f"{row.bare.rate_per_s:,}"),
    Column[Singles]("share", lambda row: f"{row.post.rate_per_s / row.bare.rate_per_s:.2f}"),
)
CPU = (
    Column[CpuFigure]("connections", lambda one: str(one.connections)),
    Column[CpuFigure]("gateway", lambda one: f"{one.gateway:.3f}"),
    Column[CpuFigure]("sender", lambda one: f"{one.sender:.3f}"),
    Column[CpuFigure]("RabbitMQ", lambda one: f"{one.rabbitmq:.3f}"),
    Column[CpuFigure]("Redis", lambda one: f"{one.redis:.3f}"),
)
BATCHES = (
    Column[Batches]("messages a request", lambda row: f"{row.array.messages:,}"),
    Column[Batches]("requests", lambda row: f"{row.array.requests:,}"),
    Column[Batches]("JSON array, messages/s", lambda row: _rate(row.array)),
    Column[Batches]("NDJSON, messages/s", lambda row: _rate(row.ndjson)),
)
