"""Metrics as a scraper reads them, parsed by prometheus-client, and the metrics of all services."""

import urllib.request
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from common.broker.memory import MemoryBroker
from common.ledger.memory import MemoryLedger
from common.ledger.values import SenderStatus, Snapshot
from common.messages import Lane
from common.metrics import new_registry
from common.settings import Settings
from gateway.acceptance.port import Kept
from gateway.api.metrics import GatewayMetrics
from monitor.metrics import PipelineMetrics
from sender.metrics import SenderMetrics
from sender.providers import simulated
from sender.service import Sender

SNAPSHOT = Snapshot(
    published=100,
    sending=7,
    sent=60,
    failed=13,
    retried=4,
    ambiguous=2,
    rejected=1,
    total_time_us=73_000_000,
    latency={16 * 19 + 3: 70, 16 * 20: 2, 16 * 40: 1},
    senders={"one": SenderStatus(slots=11), "two": SenderStatus(slots=22)},
)


class Samples:
    """The samples that a service exposes, by name and labels."""

    def __init__(self, text: str) -> None:
        self.families: list[Metric] = list(text_string_to_metric_families(text))
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        """The value of the sample with exactly these labels."""
        return self._values[name, frozenset(labels.items())]

    def labels(self, name: str) -> list[dict[str, str]]:
        """The labels of each sample of this name."""
        return [dict(labels) for found, labels in self._values if found == name]

    def of(self, name: str) -> list[float]:
        """The values of the samples of this name, in the order in which they were exposed."""
        return [value for (found, _), value in self._values.items() if found == name]


def read(registry: CollectorRegistry) -> Samples:
    """The result of a scrape now."""
    return Samples(generate_latest(registry).decode())


def scrape(port: int, key: str | None = None) -> Samples:
    """Scrapes, with an API key if given. Blocks."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return Samples(answer.read().decode())


def idle_sender() -> Sender:
    """A sender that is not running."""
    settings = Settings(_env_file=None)
    return Sender("idle", MemoryBroker(), MemoryLedger(), simulated.create(settings), slots=50)


async def everything() -> dict[str, Samples]:
    """All metrics of sender, monitor and gateway, by service."""
    sender, pipeline, gateway = idle_sender(), PipelineMetrics(), GatewayMetrics(MemoryBroker())
    sender.last_heartbeat_s = 1.0
    pipeline.update(SNAPSHOT)
    for status in (202, 429, 500, 503):
        gateway.observe("/sms", "POST", status, 0.004)
    for lane in Lane:
        gateway.accepted(lane)
    gateway.watch_pending(lambda: 4)
    gateway.watch_backlog(lambda: 9)
    gateway.watch_kept(Kept)
    gateway.watch_events(lambda: 3, {1013: 2})
    await gateway.refresh()
    return {
        "sender": read(new_registry("sender", SenderMetrics(sender))),
        "monitor": read(new_registry("monitor", pipeline)),
        "gateway": read(gateway.registry),
    }


def names(samples: Iterable[Samples]) -> set[str]:
    """The names of all samples."""
    return {sample.name for one in samples for family in one.families for sample in family.samples}
