"""Metrics: what each service counts, how it is named, and the server that shows it."""

import asyncio
import re
import socket
from typing import Any

import aiohttp
import numpy as np
import pytest
from starlette.requests import Request

from common.broker.memory import MemoryBroker
from common.errors import Refused, Unavailable
from common.messages import Lane, Outcome
from common.metrics import metrics_served, new_registry, time_histogram
from common.settings import Settings
from common.web.operations import Scope
from gateway.api.metrics import GatewayMetrics
from monitor.metrics import PipelineMetrics
from sender.metrics import SenderMetrics
from sender.settle import SendCounts
from tests.metrics import SNAPSHOT, everything, idle_sender, read, scrape
from tests.runners import free_port

LABELS = {
    *("outcome", "lane", "operation", "method", "status", "queue", "reason", "le"),
    *("service", "version", "python", "generation"),
}


def settings(**values: Any) -> Settings:
    return Settings(_env_file=None, **values)


async def test_names_follow_the_conventions_and_labels_are_bounded() -> None:
    """smsim_ first, `_total` for counters, seconds for times; no label that a run, number or message could be in."""
    for samples in (await everything()).values():
        for family in samples.families:
            assert re.fullmatch(r"(smsim|process|python)_[a-z_]+", family.name)
            assert family.documentation
            assert not re.search(r"_(us|ms|s|milliseconds)$", family.name)
            for sample in family.samples:
                assert family.type != "counter" or sample.name.endswith("_total")
                assert set(sample.labels) <= LABELS
                assert not sample.name.endswith("_created")


async def test_every_service_says_what_it_is_and_what_it_uses() -> None:
    """Build, processor time, memory and the garbage collector."""
    for service, samples in (await everything()).items():
        (build,) = samples.labels("smsim_build_info")
        assert build["service"] == service
        assert re.fullmatch(r"\d+\.\d+\.\d+", build["version"])
        assert samples("process_cpu_seconds_total") > 0
        assert samples("process_resident_memory_bytes") > 1e6
        assert samples.of("python_gc_collections_total")


def test_sends_are_counted_by_outcome_and_time() -> None:
    """Several flushes with every outcome and times from 0 to hours add up to what counting one by one gives."""
    counts, draw = SendCounts(), np.random.default_rng(1)
    values = np.array([Outcome.RETRY, Outcome.SENT, Outcome.FAILED], np.uint8)
    seen: list[tuple[int, int]] = []
    for size in (1, 7, 5000):
        outcomes = draw.choice(values, size)
        times_us = (10 ** draw.uniform(0, 10, size)).astype(np.int64) - 1
        counts.add(outcomes, times_us)
        seen += zip(outcomes.tolist(), times_us.tolist(), strict=True)

    for outcome in Outcome:
        assert counts.of(outcome) == sum(o == outcome for o, _ in seen)
    assert counts.total_time_us == sum(time_us for _, time_us in seen)
    one_by_one = [(time_us + 1).bit_length() - 1 for _, time_us in seen]
    assert counts.octaves() == {octave: one_by_one.count(octave) for octave in sorted(set(one_by_one))}


def test_a_histogram_is_cumulative_and_loses_nothing() -> None:
    """Buckets grow to the count of all, also of times below the first edge and beyond the last."""
    family = time_histogram("smsim_x_seconds", "X.", {0: 1, 7: 1, 8: 2, 20: 4, 26: 8, 40: 16}, 5_500_000)
    by_edge = {s.labels["le"]: s.value for s in family.samples if s.name.endswith("_bucket")}
    assert list(by_edge.values()) == sorted(by_edge.values())
    assert by_edge["0.000256"] == 2
    assert by_edge["0.000512"] == 4
    assert by_edge["1.048576"] == 4
    assert by_edge["2.097152"] == 8
    assert by_edge["67.108864"] == 8
    assert by_edge["+Inf"] == 32
    rest = {s.name: s.value for s in family.samples if not s.name.endswith("_bucket")}
    assert rest == {"smsim_x_seconds_count": 32, "smsim_x_seconds_sum": 5.5}


def test_a_sender_shows_sends_slots_and_connections() -> None:
    """Read off the sender at the moment of the scrape."""
    sender, connected = idle_sender(), True
    registry = new_registry("sender", SenderMetrics(sender, lambda: connected))
    assert read(registry)("smsim_sender_sends_total", outcome="sent") == 0
    assert read(registry).of("smsim_sender_heartbeat_timestamp_seconds") == []

    outcomes = np.array([Outcome.SENT, Outcome.SENT, Outcome.FAILED, Outcome.RETRY], np.uint8)
    sender.counts.add(outcomes, np.full(4, 500_000))
    sender.last_heartbeat_s, connected = 1234.5, False
    now = read(registry)
    shown = {word: now("smsim_sender_sends_total", outcome=word) for word in ("sent", "failed", "retried")}
    assert shown == {"sent": 2, "failed": 1, "retried": 1}
    assert now("smsim_sender_send_duration_seconds_count") == 4
    assert now("smsim_sender_send_duration_seconds_sum") == 2
    assert now("smsim_sender_send_duration_seconds_bucket", le="0.262144") == 0
    assert now("smsim_sender_send_duration_seconds_bucket", le="0.524288") == 4
    assert now("smsim_sender_slots", lane="bulk") == 50
    assert now("smsim_sender_slots", lane="urgent") == 55, "urgent messages may have those of bulk ones too"
    assert now("smsim_sender_in_flight", lane="bulk") == 0
    assert now("smsim_sender_broker_connected") == 0
    assert now("smsim_sender_heartbeat_timestamp_seconds") == 1234.5


def test_the_monitor_shows_the_snapshot() -> None:
    """Every counter of it; and before the first one nothing, rather than zeros."""
    pipeline = PipelineMetrics()
    registry = new_registry("monitor", pipeline)
    assert not [f for f in read(registry).families if f.name.startswith("smsim_messages")]

    pipeline.update(SNAPSHOT)
    now = read(registry)
    assert now("smsim_messages_published_total") == 100
    assert now("smsim_messages_sending") == 7
    assert now("smsim_messages_settled_total", outcome="sent") == 60
    assert now("smsim_messages_settled_total", outcome="failed") == 13
    assert now("smsim_messages_queued") == 20
    assert now("smsim_messages_retried_total") == 4
    assert now("smsim_messages_ambiguous_total") == 2
    assert now("smsim_bodies_rejected_total") == 1
    assert now("smsim_senders") == 2
    assert now("smsim_slots") == 33
    assert now("smsim_snapshot_timestamp_seconds") > 1.6e9
    assert now("smsim_message_send_duration_seconds_count") == 73
    assert now("smsim_message_send_duration_seconds_sum") == 73
    assert now("smsim_message_send_duration_seconds_bucket", le="0.524288") == 0
    assert now("smsim_message_send_duration_seconds_bucket", le="1.048576") == 70
    assert now("smsim_message_send_duration_seconds_bucket", le="2.097152") == 72


def test_the_gateway_counts_requests_and_messages() -> None:
    """By operation, method and status; what a client may choose freely is never a label."""
    metrics = GatewayMetrics(MemoryBroker())
    pending = 17
    metrics.watch_pending(lambda: pending)
    metrics.watch_events(lambda: 3, {1013: 2, 4000: 1})
    for _ in range(3):
        metrics.observe("/sms/{uuid}", "GET", 200, 0.004)
    metrics.observe("/sms/{uuid}", "GET", 429, 0.0001)
    for i in range(100):
        metrics.observe("other", f"INVENTED{i}", 405, 0.0001)
    metrics.accepted(Lane.BULK)
    metrics.accepted(Lane.URGENT, 500)

    now = read(metrics.registry)
    path = {"operation": "/sms/{uuid}", "method": "GET"}
    assert now("smsim_gateway_requests_total", status="200", **path) == 3
    assert now("smsim_gateway_requests_total", status="429", **path) == 1
    other = {"operation": "other", "method": "other"}
    assert now("smsim_gateway_requests_total", status="405", **other) == 100
    assert len(now.labels("smsim_gateway_requests_total")) == 3
    assert now("smsim_gateway_request_duration_seconds_bucket", le="0.0025", **path) == 1
    assert now("smsim_gateway_request_duration_seconds_bucket", le="0.005", **path) == 4
    assert now("smsim_gateway_messages_accepted_total", lane="bulk") == 1
    assert now("smsim_gateway_messages_accepted_total", lane="urgent") == 500
    assert now("smsim_gateway_messages_pending") == 17
    assert now("smsim_gateway_event_clients") == 3
    assert now("smsim_gateway_event_clients_dropped_total", reason="slow") == 2
    assert now("smsim_gateway_event_clients_dropped_total", reason="other") == 1


class LameBroker(MemoryBroker):
    """Tells its depths or doesn't."""

    away: Exception | None = None
    asked = 0

    async def depths(self, refresh: bool = True) -> dict[str, int]:
        self.asked += 1
        if self.away is not None:
            raise self.away
        return {"sms_queue": 4, "sms_queue.urgent": 0}


async def test_depths_are_asked_for_no_more_often_than_allowed() -> None:
    """Scrapes at once share an answer."""
    broker = LameBroker()
    metrics = GatewayMetrics(broker)
    await asyncio.gather(*(metrics.refresh() for _ in range(10)))
    assert broker.asked == 1
    now = read(metrics.registry)
    assert now("smsim_queue_bodies", queue="sms_queue") == 4
    assert now("smsim_gateway_broker_connected") == 1


@pytest.mark.parametrize("away", [Unavailable("gone"), Refused("no"), TimeoutError()])
async def test_no_depths_are_shown_while_the_broker_is_away(away: Exception) -> None:
    """None rather than old ones."""
    broker = LameBroker()
    metrics = GatewayMetrics(broker, depths_every_s=0.0)
    await metrics.refresh()
    broker.away = away
    await metrics.refresh()
    now = read(metrics.registry)
    assert now.of("smsim_queue_bodies") == []
    assert now("smsim_gateway_broker_connected") == 0


async def test_the_operation_is_for_readers_and_answers_in_the_text_format() -> None:
    """GET /metrics on the gateway's own port."""
    metrics = GatewayMetrics(MemoryBroker())
    (operation,) = metrics.operations()
    assert (operation.method, operation.path, operation.scope) == ("GET", "/metrics", Scope.READ)
    response = await operation.handler(Request({"type": "http", "headers": []}))
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b'smsim_build_info{python="' in bytes(response.body)


async def test_the_server_shows_what_was_refreshed_and_ends() -> None:
    """GET /metrics while it lasts; nothing listens afterwards."""
    pipeline, port = PipelineMetrics(), free_port()

    async def refresh() -> None:
        pipeline.update(SNAPSHOT)

    async with metrics_served(settings(metrics_port=port), new_registry("monitor", pipeline), refresh):
        now = await asyncio.to_thread(scrape, port)
        assert now("smsim_messages_published_total") == 100
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(scrape, port)


async def test_without_a_port_nothing_is_served() -> None:
    """METRICS_PORT unset opens no socket, even where no address could be had."""
    async with metrics_served(settings(metrics_host="no.such.host.invalid"), new_registry("monitor")):
        pass


async def test_a_port_that_is_taken_is_one_clear_line() -> None:
    """It names both settings, the reason and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Refused) as refused:
            async with metrics_served(settings(metrics_port=port), new_registry("monitor")):
                pass
    assert str(refused.value) == (
        f"METRICS_HOST=127.0.0.1, METRICS_PORT={port}: can't listen on 127.0.0.1:{port}: Address already in use;"
        " set another port, 0 for any that is free, or none"
    )


async def test_metrics_are_for_no_foreign_page() -> None:
    """On loopback they answer to loopback names only (DNS rebinding), in few connections, and with nothing to embed."""
    port = free_port()
    async with (
        metrics_served(settings(metrics_port=port), new_registry("monitor")),
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http,
    ):
        async with http.get("/metrics", headers={"Host": "rebound.example"}) as answer:
            assert answer.status == 421
        async with http.get("/metrics") as answer:
            assert (answer.status, answer.headers["X-Frame-Options"]) == (200, "DENY")
