"""A peer as `make bench` sees it: how its two sides are started, and the setup that explains its figures."""

from dataclasses import dataclass, field

# One SMS, as every peer publishes it in JSON: id, number, text.
Message = dict[str, str]


class NotAvailable(RuntimeError):
    """A peer can't be measured here, for the reason given."""


def counters_key(queue: str) -> str:
    """The Redis hash that holds sent and time_us."""
    return f"peer:{queue}"


@dataclass(frozen=True)
class Peer:
    """One peer.

    Attributes:
        name, module: Its name, and its module in this package.
        messages: How many messages it is measured with: some seconds' worth.
        publishes, works, docs: Its setup for the table, and the pages that advise it.
        packages: The packages that it needs.
        worker: The arguments of its worker; `{count}` stands for the number of messages.
        consumers: How many consumers its worker opens. It is ready when all of them are on the queue.
        queues: All queues that it declares; `{}` stands for the queue's name.
        environment: Environment variables of its processes.
        counts: Whether it keeps counters in Redis.
    """

    name: str
    module: str
    messages: int
    publishes: str
    works: str
    docs: tuple[str, ...]
    packages: tuple[str, ...] = ()
    worker: tuple[str, ...] = ()
    consumers: int = 1
    queues: tuple[str, ...] = ("{}",)
    environment: dict[str, str] = field(default_factory=dict)
    counts: bool = True
