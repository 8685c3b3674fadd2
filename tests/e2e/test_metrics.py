"""Metrics of real processes: they add up to what the ledger says."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from urllib.error import HTTPError

import pytest

from common.ledger.values import Snapshot
from tests.e2e.pipeline import Pipeline
from tests.e2e.processes import Launched
from tests.metrics import Samples, scrape
from tests.waiting import eventually

MESSAGES = 400
KEY = "a-key-of-this-test-only"


async def metrics_port(service: Launched, event: str = "metrics_served") -> int:
    """The port that a service took, once it has logged it."""

    def port() -> int:
        return next((int(e["port"]) for e in service.events if e.get("event") == event), 0)

    found: int = await eventually(port, describe=f"{service.name} logs {event}")
    return found


async def scraped(services: Sequence[Launched]) -> list[Samples]:
    return [await asyncio.to_thread(scrape, await metrics_port(service)) for service in services]


async def test_counters_add_up_to_the_ledger(pipeline: Pipeline) -> None:
    """Two senders' sends, summed, and the monitor's counters are the ledger's, retries and both lanes included."""
    pipeline.use(METRICS_PORT=0, MEAN_PROCESSING_TIME=0.05, FAILURE_RATE=0.3, MAX_ATTEMPTS=2, SEED=5)
    monitor = pipeline.monitor("--update-interval", 0.1)
    senders = [pipeline.sender(SENDER_CONCURRENCY=20, RETRY_BACKOFF=0.1) for _ in range(2)]
    await scraped(senders)  # both are at work before there is any
    bulk = await pipeline.published("--num-messages", MESSAGES)
    urgent = await pipeline.published("--num-messages", 50, "--urgent")
    for run in (bulk, urgent):
        await pipeline.settled(run["run"], run["published"])
    ledger = await pipeline.ledger.snapshot()

    async def senders_agree() -> bool:
        shown = await scraped(senders)
        for outcome, count in (("sent", ledger.sent), ("failed", ledger.failed), ("retried", ledger.retried)):
            assert sum(one("smsim_sender_sends_total", outcome=outcome) for one in shown) == count
        sends = ledger.settled + ledger.retried
        assert sum(one("smsim_sender_send_duration_seconds_count") for one in shown) == sends
        assert all(one.of("smsim_sender_in_flight") == [0, 0] for one in shown)
        assert all(one("smsim_sender_broker_connected") == 1 for one in shown)
        return all(one("smsim_sender_sends_total", outcome="sent") > 0 for one in shown)

    async def monitor_agrees() -> bool:
        (shown,) = await scraped([monitor])
        assert pipeline_of(shown) == ledger_of(ledger)
        assert shown("smsim_senders") == 2
        assert shown("smsim_message_send_duration_seconds_count") == ledger.settled
        total_s = ledger.total_time_us / 1e6
        return abs(shown("smsim_message_send_duration_seconds_sum") - total_s) < 1e-6

    assert min(ledger.sent, ledger.failed, ledger.retried) > 0
    await eventually(senders_agree)
    await eventually(monitor_agrees)

    for service in (monitor, *senders):
        service.signal(signal.SIGTERM)
        assert await service.ended() == 0
        assert service.stderr == ""


def pipeline_of(shown: Samples) -> dict[str, float]:
    """The monitor's counters."""
    return {
        "published": shown("smsim_messages_published_total"),
        "queued": shown("smsim_messages_queued"),
        "sending": shown("smsim_messages_sending"),
        "sent": shown("smsim_messages_settled_total", outcome="sent"),
        "failed": shown("smsim_messages_settled_total", outcome="failed"),
        "retried": shown("smsim_messages_retried_total"),
        "ambiguous": shown("smsim_messages_ambiguous_total"),
        "rejected": shown("smsim_bodies_rejected_total"),
    }


def ledger_of(snapshot: Snapshot) -> dict[str, float]:
    """The ledger's."""
    words = ("published", "queued", "sending", "sent", "failed", "retried", "ambiguous", "rejected")
    return {word: getattr(snapshot, word) for word in words}


async def test_a_port_that_is_taken(pipeline: Pipeline) -> None:
    """One clear line, exit 1, for sender and monitor alike."""
    port = await metrics_port(pipeline.monitor(METRICS_PORT=0))
    said = f"METRICS_HOST=127.0.0.1, METRICS_PORT={port}: can't listen on 127.0.0.1:{port}: Address already in use;"
    for start in (pipeline.sender, pipeline.monitor):
        service = start(METRICS_PORT=port)
        assert await service.ended() == 1
        assert service.stderr.startswith(f"{service.program}: {said}")
        assert service.stderr.count("\n") == 1


async def test_a_monitor_of_one_run_serves_none(pipeline: Pipeline) -> None:
    """Metrics are of all runs: what is of one run only would be taken for the whole."""
    run = (await pipeline.published("--num-messages", 1))["run"]
    monitor = pipeline.monitor("--run", run, "--update-interval", 0.1, METRICS_PORT=0)
    await eventually(lambda: monitor.logged("statistics"))
    assert not monitor.logged("metrics_served")


async def test_the_gateway_serves_metrics_twice(pipeline: Pipeline) -> None:
    """On METRICS_PORT to everybody who can reach it, on its own port to keys that may read."""
    gateway = pipeline.start("smsim", "gateway", METRICS_PORT=0, GATEWAY_PORT=0, GATEWAY_API_KEY=KEY)
    (shown,) = await scraped([gateway])
    assert shown("smsim_gateway_broker_connected") == 1
    assert shown("smsim_queue_bodies", queue=pipeline.queue) == 0

    own_port = await metrics_port(gateway, "gateway_listening")
    with pytest.raises(HTTPError, match="401"):
        await asyncio.to_thread(scrape, own_port)
    shown = await asyncio.to_thread(scrape, own_port, KEY)
    refused = {"operation": "/metrics", "method": "GET", "status": "401"}
    assert shown("smsim_gateway_requests_total", **refused) == 1
    gateway.signal(signal.SIGTERM)
    assert await gateway.ended() == 0, gateway.stderr


@pytest.mark.slow
async def test_a_lost_broker_shows(mortal_pipeline: Pipeline) -> None:
    """Sender and gateway say so while RabbitMQ is down, and again when it is back; the scrape answers all the while."""
    pipeline = mortal_pipeline
    sender = pipeline.sender(METRICS_PORT=0)
    gateway = pipeline.start("smsim", "gateway", METRICS_PORT=0, GATEWAY_PORT=0, GATEWAY_API_KEY=KEY)

    async def connected() -> list[float]:
        of_sender, of_gateway = await scraped([sender, gateway])
        return [of_sender("smsim_sender_broker_connected"), of_gateway("smsim_gateway_broker_connected")]

    await eventually(lambda: _is(connected, [1, 1]))
    pipeline.rabbit.kill()
    await eventually(lambda: _is(connected, [0, 0]))
    pipeline.rabbit.start()
    await eventually(lambda: _is(connected, [1, 1]), 60)


async def _is(look: Callable[[], Awaitable[list[float]]], wanted: list[float]) -> bool:
    return await look() == wanted
