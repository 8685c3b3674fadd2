"""What RabbitMQ refuses: in its own words, passing or lasting, and why it can't be reached."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import pytest

from common.broker.rabbitmq import RabbitBroker, connect_broker
from common.broker.rabbitmq.link import Timing
from common.errors import PublishFailed, Refused, RefusedForNow, TooLarge, Unavailable
from common.messages import Batch, Lane, Message
from common.settings import Settings, load_settings
from tests.contract.benches import rabbit_settings
from tests.servers import RabbitServer
from tests.waiting import eventually

BATCH = Batch(run="r", messages=[Message(0, "+999123456789", "text")])
LONG = Batch(run="r", messages=[Message(seq, "+999123456789", "x" * 1000) for seq in range(100)])


@contextmanager
def user_in_a_vhost(server: RabbitServer) -> Iterator[Settings]:
    """A virtual host of its own, and a user with all permissions there."""
    name = f"refusals-{secrets.token_hex(4)}"
    server.ctl("add_vhost", name)
    server.ctl("add_user", name, "first")
    server.ctl("set_permissions", "-p", name, name, ".*", ".*", ".*")
    yield rabbit_settings(server, rabbitmq_vhost=name, rabbitmq_user=name, rabbitmq_password="first")
    server.ctl("delete_user", name)
    server.ctl("delete_vhost", name)


@contextmanager
def server_settings(server: RabbitServer, values: Mapping[str, int]) -> Iterator[None]:
    """Settings of RabbitMQ. They hold for channels that are opened from then on."""
    before = {name: server.ctl("eval", f"application:get_env(rabbit, {name}).") for name in values}
    for name, value in values.items():
        server.ctl("eval", f"application:set_env(rabbit, {name}, {value}).")
    yield
    for name, answer in before.items():
        default = answer.strip().removeprefix("{ok,").removesuffix("}")
        server.ctl("eval", f"application:set_env(rabbit, {name}, {default}).")


async def ctl(server: RabbitServer, *arguments: str) -> None:
    await asyncio.to_thread(server.ctl, *arguments)


@asynccontextmanager
async def started(settings: Settings, timing: Timing) -> AsyncIterator[RabbitBroker]:
    broker = RabbitBroker(settings, "test", timing=timing)
    await broker.start()
    yield broker
    await broker.close()


async def publishes(broker: RabbitBroker) -> bool:
    try:
        await broker.ready()
        await broker.publish(BATCH, Lane.BULK)
    except PublishFailed:
        return False
    return True


async def test_limits_are_named_in_rabbitmqs_words(rabbit_server: RabbitServer) -> None:
    """No queue is to be deleted, and no setting is wrong: an operator has set a limit."""
    with user_in_a_vhost(rabbit_server) as settings:
        vhost, user = settings.rabbitmq_vhost, settings.rabbitmq_user
        for scope, limit, words in (
            (("vhost_limits", "-p", vhost), '{"max-queues": 0}', "queue limit"),
            (("vhost_limits", "-p", vhost), '{"max-connections": 0}', "connection limit"),
            (("user_limits", user), '{"max-connections": 0}', "user connection limit"),
            (("user_limits", user), '{"max-channels": 0}', "limit"),
        ):
            kind, *of = scope
            await ctl(rabbit_server, f"set_{kind}", *of, limit)
            with pytest.raises(RefusedForNow, match=words) as refused:
                await connect_broker(settings, "test", 3600)
            assert "delete" not in str(refused.value)
            assert "RABBITMQ_VHOST" not in str(refused.value)
            await ctl(rabbit_server, f"clear_{kind}", *of, *(["all"] if kind == "user_limits" else []))


@pytest.mark.parametrize("again", ["password", "limit"])
async def test_a_refusal_that_passes_is_outlived(rabbit_server: RabbitServer, again: str) -> None:
    """Publisher and subscriber go on once RabbitMQ lets them in again; nobody heard of the refusal."""
    with user_in_a_vhost(rabbit_server) as settings:
        vhost, user = settings.rabbitmq_vhost, settings.rabbitmq_user
        close, allow = {
            "password": (("change_password", user, "second"), ("change_password", user, "first")),
            "limit": (
                ("set_vhost_limits", "-p", vhost, '{"max-connections": 0}'),
                ("clear_vhost_limits", "-p", vhost),
            ),
        }[again]
        async with started(settings, Timing(refused_s=3600)) as broker:
            subscription = await broker.subscribe(Lane.BULK, 10)
            await ctl(rabbit_server, *close)
            await ctl(rabbit_server, "close_all_user_connections", user, "test")
            await eventually(lambda: not broker.connected)
            await ctl(rabbit_server, *allow)
            await eventually(lambda: publishes(broker))
            async with asyncio.timeout(60):
                assert await subscription.take()
            assert broker.refusal == ""


async def test_a_refusal_that_lasts_is_told_and_still_tried_again(rabbit_server: RabbitServer) -> None:
    """Those who wait get RabbitMQ's words. A client that stays goes on all the same once it is let in."""
    with user_in_a_vhost(rabbit_server) as settings:
        user = settings.rabbitmq_user
        async with started(settings, Timing(refused_s=0.5, longest_backoff_s=0.2)) as broker:
            subscription = await broker.subscribe(Lane.BULK, 10)
            await ctl(rabbit_server, "change_password", user, "second")
            await ctl(rabbit_server, "close_all_user_connections", user, "test")
            async with asyncio.timeout(60):
                with pytest.raises(Refused, match=r"ACCESS_REFUSED.*RABBITMQ_PASSWORD"):
                    await subscription.take()
                await eventually(lambda: "ACCESS_REFUSED" in broker.refusal)
                await eventually(lambda: broker._publisher.refusal)
                with pytest.raises(Refused, match="ACCESS_REFUSED"):
                    await broker.ready()
            await ctl(rabbit_server, "change_password", user, "first")
            await eventually(lambda: not broker.refusal)
            await eventually(lambda: publishes(broker))


async def test_a_body_over_the_size_limit_is_refused_and_no_other(rabbit_server: RabbitServer) -> None:
    """It closes the channel for all that is under way. Repeated, it alone is refused, with RabbitMQ's words."""
    with (
        user_in_a_vhost(rabbit_server) as settings,
        server_settings(rabbit_server, {"max_message_size": 50_000}),
    ):
        async with started(settings, Timing()) as broker:

            async def published(batch: Batch) -> None:
                for _ in range(2):
                    await broker.ready()
                    try:
                        return await broker.publish(batch, Lane.BULK)
                    except PublishFailed:
                        continue
                raise AssertionError("it failed twice")

            with pytest.raises(TooLarge, match=r"message size .* max size 50000") as refused:
                await published(LONG)
            assert refused.value.most_bytes == 50_000
            await published(BATCH)
            await eventually(lambda: broker.connected)


async def test_no_permission_is_refused_in_rabbitmqs_words(rabbit_server: RabbitServer) -> None:
    """A publish is not repeated for ever, nor a consumer started."""
    with user_in_a_vhost(rabbit_server) as settings:
        vhost, user = settings.rabbitmq_vhost, settings.rabbitmq_user
        # Without a dead letter exchange, to which RabbitMQ would want the same permission.
        classic = settings.model_copy(update={"queue_type": "classic"})
        await ctl(rabbit_server, "set_permissions", "-p", vhost, user, ".*", "^$", ".*")
        async with started(classic, Timing()) as broker:
            with pytest.raises(Refused, match="refuses to publish: ACCESS_REFUSED"):
                await broker.publish(BATCH, Lane.BULK)
        await ctl(rabbit_server, "set_permissions", "-p", vhost, user, ".*", ".*", "^$")
        async with started(classic, Timing()) as broker:
            subscription = await broker.subscribe(Lane.BULK, 10)
            async with asyncio.timeout(60):
                with pytest.raises(Refused, match="refuses to consume queue sms_queue: ACCESS_REFUSED"):
                    await subscription.take()


async def test_a_queue_that_may_not_be_declared_is_used_once_it_is_there(rabbit_server: RabbitServer) -> None:
    """A user without `configure` waits for a sender's declaration, and says so."""
    with user_in_a_vhost(rabbit_server) as settings:
        vhost, user = settings.rabbitmq_vhost, settings.rabbitmq_user
        await (await connect_broker(settings, "test", 60)).close()
        await ctl(rabbit_server, "set_permissions", "-p", vhost, user, "^$", ".*", ".*")
        async with started(settings, Timing()) as broker:
            await broker.publish(BATCH, Lane.BULK)
            subscription = await broker.subscribe(Lane.BULK, 10)
            async with asyncio.timeout(60):
                (delivery,) = await subscription.take()
            delivery.ack()
            with pytest.raises(PublishFailed, match=r"no queue sms_queue\.failed yet: .*ACCESS_REFUSED"):
                await broker.park(BATCH, Lane.BULK)
        other = settings.model_copy(update={"queue_name": "another"})
        with pytest.raises(
            Unavailable, match=r"no queue another\.\S+ yet: a sender declares it .*ACCESS_REFUSED"
        ):
            await connect_broker(other, "test", 1)


async def test_a_consumer_that_rabbitmq_takes_away_has_a_reason(
    rabbit_server: RabbitServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A deleted queue, and a delivery that was not acked in time: the log says why messages come again."""
    timing = {"consumer_timeout": 1_000, "channel_tick_interval": 200}

    def reasons() -> str:
        lost = [record for record in caplog.records if record.message == "broker_lost"]
        return " ".join(str(vars(record)["reason"]) for record in lost)

    with user_in_a_vhost(rabbit_server) as settings, server_settings(rabbit_server, timing):
        async with started(settings, Timing()) as broker:
            await broker.subscribe(Lane.BULK, 10)
            await ctl(rabbit_server, "delete_queue", "-p", settings.rabbitmq_vhost, "sms_queue")
            await eventually(lambda: "canceled the consumer of sms_queue: the queue was deleted" in reasons())
            await eventually(lambda: publishes(broker))
            await eventually(lambda: "timed out" in reasons() or "consumer_timeout" in reasons()[200:])


async def test_blocked_publishes_are_logged(
    rabbit_server: RabbitServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Under an alarm of RabbitMQ nothing fails, so nothing else would show why publishes wait."""
    caplog.set_level(logging.INFO)
    watermark = rabbit_server.ctl("eval", "vm_memory_monitor:get_vm_memory_high_watermark().").strip()

    def logged() -> list[tuple[str, str | None]]:
        return [(record.msg, vars(record).get("reason")) for record in caplog.records]

    with user_in_a_vhost(rabbit_server) as settings:
        async with started(settings, Timing()) as broker:
            await ctl(rabbit_server, "set_vm_memory_high_watermark", "0.00001")
            try:
                publishing = broker.publish(BATCH, Lane.BULK)
                await eventually(lambda: ("broker_blocked", "low on memory") in logged())
            finally:
                await ctl(rabbit_server, "set_vm_memory_high_watermark", watermark)
            await publishing
            await eventually(lambda: ("broker_unblocked", None) in logged())


async def test_what_is_no_rabbitmq_is_named(rabbit_server: RabbitServer, unused_tcp_port: int) -> None:
    """Each reason why RabbitMQ can't be reached: name, port, protocol, TLS; within the time that was given."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def hangs_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with (
        await asyncio.start_server(silent, "127.0.0.1", 0) as mute,
        await asyncio.start_server(hangs_up, "127.0.0.1", 0) as rude,
    ):
        silent_port, rude_port = (server.sockets[0].getsockname()[1] for server in (mute, rude))
        host, port = rabbit_server.host, rabbit_server.port
        for given, reason in (
            ({"rabbitmq_host": "no-such-host.invalid"}, "not known|No address|failure in name resolution"),
            ({"rabbitmq_port": unused_tcp_port}, "Connection refused"),
            ({"rabbitmq_port": silent_port}, "no AMQP within .*the port of another server"),
            ({"rabbitmq_port": rude_port}, "has this port TLS"),
            ({"rabbitmq_host": host, "rabbitmq_port": port, "rabbitmq_tls": True}, "does this port have TLS"),
        ):
            settings = load_settings(**{"rabbitmq_host": "127.0.0.1", **given})
            with pytest.raises(Unavailable, match=f"can't be reached: .*({reason}).*is it running"):
                await connect_broker(settings, "test", 0.6)
