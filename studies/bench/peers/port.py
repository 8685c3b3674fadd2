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
    """Data of one peer.

    `messages` are so many that a measurement takes some seconds; `consumers` is how many its worker opens on the
    queue, which is how one sees that it is ready; `queues` are all that it declares, with {} for the queue's name.
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
