"""The broker's promises (common/broker/port.py), held by the memory broker and by RabbitMQ with both queue types."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from common.broker.port import Delivery, ParkedQueue, Subscription
from common.errors import PublishFailed, StaleDelivery
from common.messages import Batch, Lane, Message, decode_batch
from tests.contract.benches import BrokerBench, memory_bench, rabbit_bench
from tests.waiting import eventually

# How long a test looks whether something comes that must not.
WATCH_S = 0.3


@pytest.fixture(params=["memory", "rabbitmq-quorum", "rabbitmq-classic"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[BrokerBench]:
    if request.param == "memory":
        async with memory_bench() as bench:
            yield bench
        return
    server = request.getfixturevalue("rabbit_server")
    async with rabbit_bench(server, request.param.removeprefix("rabbitmq-")) as bench:
        yield bench


def batch(first: int, size: int = 1) -> Batch:
    return Batch(
        run="r", messages=[Message(seq, "+999123456789", f"text {seq}") for seq in range(first, first + size)]
    )


def first_seq(delivery: Delivery) -> int:
    return decode_batch(delivery.body)[0].messages[0].seq


async def take(subscription: Subscription, count: int) -> list[Delivery]:
    taken: list[Delivery] = []
    async with asyncio.timeout(60):
        while len(taken) < count:
            taken += await subscription.take()
    return taken


async def peeked(bench: BrokerBench) -> Counter[tuple[str, int]]:
    """The queue and first seq of each body that a peek shows."""
    async with asyncio.timeout(60):
        return Counter(
            [(name, decode_batch(body)[0].messages[0].seq) async for name, body in bench.broker.peek()]
        )


async def assert_nothing_comes(subscription: Subscription) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(subscription.take(), WATCH_S)


async def test_a_confirmed_batch_is_delivered_as_it_was_published(bench: BrokerBench) -> None:
    """Every field of a batch arrives, in the lane it was published to."""
    sent = Batch(
        run="r", attempt=3, track=True, messages=[Message(7, "+999123456789", "Grüße ☃ \N{GRINNING FACE}")]
    )
    await bench.broker.publish(sent, Lane.BULK)
    (delivery,) = await take(await bench.broker.subscribe(Lane.BULK, 10), 1)
    assert decode_batch(delivery.body)[0] == sent
    assert (delivery.lane, delivery.redelivered, delivery.stale) == (Lane.BULK, False, False)
    assert delivery.reason == ""


async def test_lanes_do_not_mix(bench: BrokerBench) -> None:
    """What is published to one lane is never delivered from the other."""
    await asyncio.gather(
        bench.broker.publish(batch(1), Lane.BULK), bench.broker.publish(batch(2), Lane.URGENT)
    )
    bulk = await bench.broker.subscribe(Lane.BULK, 10)
    urgent = await bench.broker.subscribe(Lane.URGENT, 10)
    assert [first_seq(d) for d in await take(urgent, 1)] == [2]
    assert [first_seq(d) for d in await take(bulk, 1)] == [1]


async def test_many_publishes_may_await_their_confirms_at_once(bench: BrokerBench) -> None:
    """A window of publishes is confirmed, and each arrives once and in order."""
    await asyncio.gather(*(bench.broker.publish(batch(seq), Lane.BULK) for seq in range(500)))
    subscription = await bench.broker.subscribe(Lane.BULK, 1000)
    assert [first_seq(d) for d in await take(subscription, 500)] == list(range(500))


async def test_prefetch_limits_what_is_unacked(bench: BrokerBench) -> None:
    """No more than the prefetch is in hand; an ack makes room for just one more."""
    await asyncio.gather(*(bench.broker.publish(batch(seq), Lane.BULK) for seq in range(5)))
    subscription = await bench.broker.subscribe(Lane.BULK, 2)
    in_hand = await take(subscription, 2)
    await assert_nothing_comes(subscription)
    in_hand[0].ack()
    assert [first_seq(d) for d in await take(subscription, 1)] == [2]
    await assert_nothing_comes(subscription)


async def test_prefetch_can_be_raised_while_consuming(bench: BrokerBench) -> None:
    """A larger prefetch takes effect with nothing acked, and up to its new value only."""
    await asyncio.gather(*(bench.broker.publish(batch(seq), Lane.BULK) for seq in range(6)))
    subscription = await bench.broker.subscribe(Lane.BULK, 1)
    await take(subscription, 1)
    subscription.set_prefetch(4)
    assert len(await take(subscription, 3)) == 3
    await assert_nothing_comes(subscription)


async def test_prefetch_can_be_lowered_while_consuming(bench: BrokerBench) -> None:
    """After a smaller prefetch, no more than that comes at once."""
    await asyncio.gather(*(bench.broker.publish(batch(seq), Lane.BULK) for seq in range(10)))
    subscription = await bench.broker.subscribe(Lane.BULK, 4)
    in_hand = await take(subscription, 4)
    subscription.set_prefetch(1)
    for delivery in in_hand:
        delivery.ack()
    (next_one,) = await take(subscription, 1)
    await assert_nothing_comes(subscription)
    next_one.ack()
    assert len(await take(subscription, 1)) == 1


async def test_what_is_acked_never_comes_again(bench: BrokerBench) -> None:
    """Acks in any order and grouping reach the broker: after a lost connection nothing of it comes back."""
    await asyncio.gather(*(bench.broker.publish(batch(seq), Lane.BULK) for seq in range(300)))
    subscription = await bench.broker.subscribe(Lane.BULK, 300)
    in_hand = await take(subscription, 300)
    shuffled = random.Random(1).sample(in_hand, 300)
    kept = shuffled.pop()
    for number, delivery in enumerate(shuffled):
        delivery.ack()
        if number % 7 == 0:
            await asyncio.sleep(0)
    # The acks must have left before the connection is cut; that they have shows in a further body's arrival.
    await bench.broker.publish(batch(1000), Lane.BULK)
    await take(subscription, 1)
    await bench.cut()
    again = {first_seq(d) for d in await take(subscription, 2)}
    assert again == {first_seq(kept), 1000}
    await assert_nothing_comes(subscription)


async def test_what_is_unacked_comes_again_when_the_connection_is_lost(bench: BrokerBench) -> None:
    """It comes flagged as redelivered; the old delivery is stale and can be neither acked nor released."""
    await bench.broker.publish(batch(1), Lane.BULK)
    subscription = await bench.broker.subscribe(Lane.BULK, 10)
    (old,) = await take(subscription, 1)
    await bench.cut()
    (again,) = await take(subscription, 1)
    assert (first_seq(again), again.redelivered, again.stale) == (1, True, False)
    assert old.stale
    with pytest.raises(StaleDelivery):
        old.ack()
    with pytest.raises(StaleDelivery):
        old.release()
    with pytest.raises(StaleDelivery):
        await old.reject("too late")
    again.ack()


async def test_a_released_delivery_comes_again(bench: BrokerBench) -> None:
    """Handing back puts it into the queue again, flagged as redelivered."""
    await bench.broker.publish(batch(1), Lane.BULK)
    subscription = await bench.broker.subscribe(Lane.BULK, 10)
    (delivery,) = await take(subscription, 1)
    delivery.release()
    (again,) = await take(subscription, 1)
    assert again.redelivered


async def test_releases_and_acks_may_be_mixed(bench: BrokerBench) -> None:
    """An ack of the last of many, with others released before it, acks the right ones."""
    await asyncio.gather(*(bench.broker.publish(batch(seq), Lane.BULK) for seq in range(6)))
    subscription = await bench.broker.subscribe(Lane.BULK, 6)
    in_hand = await take(subscription, 6)
    for delivery in in_hand:
        delivery.release() if first_seq(delivery) % 2 else delivery.ack()
    assert {first_seq(d) for d in await take(subscription, 3)} == {1, 3, 5}
    await assert_nothing_comes(subscription)


async def test_settling_a_delivery_twice_raises(bench: BrokerBench) -> None:
    """Ack, release and reject each end a delivery: a second one is a bug of the caller's."""
    await bench.broker.publish(batch(1), Lane.BULK)
    (delivery,) = await take(await bench.broker.subscribe(Lane.BULK, 10), 1)
    delivery.ack()
    for again in (delivery.ack, delivery.release):
        with pytest.raises(RuntimeError):
            again()
    with pytest.raises(RuntimeError):
        await delivery.reject("again")


async def test_any_body_is_delivered_and_can_be_rejected(bench: BrokerBench) -> None:
    """A body that is no batch comes as it is; rejected, it stands in the rejected queue with the reason."""
    await bench.publish_raw(b"\xff no batch")
    subscription = await bench.broker.subscribe(Lane.BULK, 10)
    (delivery,) = await take(subscription, 1)
    assert delivery.body == b"\xff no batch"
    await delivery.reject("not UTF-8")
    assert await bench.rejected() == [(b"\xff no batch", "not UTF-8")]
    await bench.broker.publish(batch(1), Lane.BULK)
    await take(subscription, 1)  # the ack left before this came
    await bench.cut()
    assert [first_seq(d) for d in await take(subscription, 1)] == [1]
    await assert_nothing_comes(subscription)


async def test_a_later_publish_waits_and_holds_nobody_up(bench: BrokerBench) -> None:
    """With `after`, a batch joins its lane later; what was published after it comes first."""
    subscription = await bench.broker.subscribe(Lane.BULK, 10)
    await bench.broker.publish(batch(1), Lane.BULK, after=0.4)
    await bench.broker.publish(batch(2), Lane.BULK)
    assert [first_seq(d) for d in await take(subscription, 2)] == [2, 1]
    retry = bench.topology.retry(Lane.BULK, 0.4).name
    assert (await bench.broker.depths()).get(retry, 0) == 0


async def test_shorter_delays_are_not_held_up_by_longer_ones(bench: BrokerBench) -> None:
    """A delay that ends sooner is over sooner, though it began later: there is no common head of a queue."""
    subscription = await bench.broker.subscribe(Lane.BULK, 10)
    await bench.broker.publish(batch(1), Lane.BULK, after=1.0)
    await bench.broker.publish(batch(2), Lane.BULK, after=0.1)
    assert [first_seq(d) for d in await take(subscription, 2)] == [2, 1]


async def test_publishing_goes_on_after_a_lost_connection(bench: BrokerBench) -> None:
    """A publish around the loss is confirmed or raises; repeated when ready, it arrives."""
    subscription = await bench.broker.subscribe(Lane.BULK, 100)
    await bench.cut()
    for seq in range(20):
        while True:
            try:
                await bench.broker.publish(batch(seq), Lane.BULK)
                break
            except PublishFailed:
                await bench.broker.ready()
    arrived: set[int] = set()

    async def all_arrived() -> bool:
        arrived.update(first_seq(d) for d in await subscription.take())
        return arrived == set(range(20))

    await eventually(all_arrived)


async def test_closing_a_subscription_gives_back_what_was_not_taken(bench: BrokerBench) -> None:
    """Another subscriber gets it; what was taken can still be acked."""
    await asyncio.gather(*(bench.broker.publish(batch(seq), Lane.BULK) for seq in range(3)))
    first = await bench.broker.subscribe(Lane.BULK, 1)
    (taken,) = await take(first, 1)
    await first.close()
    taken.ack()
    second = await bench.broker.subscribe(Lane.BULK, 10)
    assert {first_seq(d) for d in await take(second, 2)} == {1, 2}


async def test_a_kept_batch_waits_on_the_failed_shelf_with_its_lane(bench: BrokerBench) -> None:
    """It comes whole from the shelf and from no lane, and says which lane it belongs to."""
    urgent = Batch(
        run="r", attempt=3, messages=[Message(7, "+999123456789", "Grüße"), Message(9, "+1", "bad")]
    )
    await asyncio.gather(bench.broker.park(urgent, Lane.URGENT), bench.broker.park(batch(1), Lane.BULK))
    subscription = await bench.broker.subscribe(ParkedQueue.FAILED, 10)
    by_lane = {d.lane: d for d in await take(subscription, 2)}
    assert decode_batch(by_lane[Lane.URGENT].body)[0] == urgent
    assert decode_batch(by_lane[Lane.BULK].body)[0] == batch(1)
    assert [d.reason for d in by_lane.values()] == ["", ""]
    for lane in Lane:
        await assert_nothing_comes(await bench.broker.subscribe(lane, 10))


async def test_a_shelf_keeps_the_promises_of_a_lane(bench: BrokerBench) -> None:
    """Prefetch, acks, releases and lost connections: a body leaves the shelf by an ack, and by nothing else."""
    await asyncio.gather(*(bench.broker.park(batch(seq), Lane.URGENT) for seq in range(3)))
    subscription = await bench.broker.subscribe(ParkedQueue.FAILED, 2)
    first, second = await take(subscription, 2)
    await assert_nothing_comes(subscription)
    first.ack()
    (third,) = await take(subscription, 1)
    second.release()
    (second,) = await take(subscription, 1)
    assert (first_seq(second), second.redelivered, second.lane) == (1, True, Lane.URGENT)
    await bench.cut()
    again = await take(subscription, 2)
    assert {(first_seq(d), d.redelivered) for d in again} == {(1, True), (2, True)}
    assert third.stale
    await subscription.close()


async def test_a_rejected_body_can_be_taken_from_its_shelf_with_the_reason(bench: BrokerBench) -> None:
    """Whatever the body is, it comes as it was, with why it was rejected; rejected again, with the new reason."""
    await bench.publish_raw(b"\xff no batch")
    (delivery,) = await take(await bench.broker.subscribe(Lane.BULK, 10), 1)
    await delivery.reject("not UTF-8")
    shelf = await bench.broker.subscribe(ParkedQueue.REJECTED, 1)
    (delivery,) = await take(shelf, 1)
    assert (delivery.body, delivery.reason, delivery.lane) == (b"\xff no batch", "not UTF-8", Lane.BULK)
    await delivery.reject("still not")
    (delivery,) = await take(shelf, 1)
    assert (delivery.body, delivery.reason) == (b"\xff no batch", "still not")
    delivery.ack()
    await shelf.close()
    assert await bench.rejected() == []


async def test_peek_shows_what_waits_and_takes_nothing(bench: BrokerBench) -> None:
    """Each body in a lane or a retry queue is shown once, no body of a shelf; afterwards everything is delivered."""
    later = bench.topology.retry(Lane.URGENT, 512).name
    await asyncio.gather(
        *(bench.broker.publish(batch(seq), Lane.BULK) for seq in range(5)),
        bench.broker.publish(batch(5), Lane.URGENT),
        bench.broker.publish(batch(6), Lane.URGENT, after=512),
        bench.broker.park(batch(7), Lane.BULK),
    )
    bulk, urgent = (bench.topology.lane(lane).name for lane in (Lane.BULK, Lane.URGENT))
    everything = Counter([*((bulk, seq) for seq in range(5)), (urgent, 5), (later, 6)])
    assert await peeked(bench) == everything

    async def all_back() -> bool:
        depths = await bench.broker.depths()
        return (depths[bulk], depths[urgent], depths[later]) == (5, 1, 1)

    await eventually(all_back)
    assert await peeked(bench) == everything
    deliveries = await take(await bench.broker.subscribe(Lane.BULK, 10), 5)
    deliveries += await take(await bench.broker.subscribe(Lane.URGENT, 10), 1)
    assert [first_seq(d) for d in deliveries] == list(range(6))
    assert all(d.redelivered for d in deliveries)


async def test_peek_shows_more_than_a_consumer_may_hold(bench: BrokerBench) -> None:
    """RabbitMQ gives a consumer of a quorum queue 2000 bodies at most: every further one is shown too, once."""
    count = 2500
    await asyncio.gather(*(bench.broker.publish(batch(seq), Lane.BULK) for seq in range(count)))
    name = bench.topology.lane(Lane.BULK).name
    assert await peeked(bench) == Counter((name, seq) for seq in range(count))
    subscription = await bench.broker.subscribe(Lane.BULK, count)
    assert Counter(first_seq(d) for d in await take(subscription, count)) == Counter(range(count))


async def test_a_peek_shows_what_was_rejected(bench: BrokerBench) -> None:
    """A batch may be there, too: RabbitMQ moves it there by a policy of its operator."""
    await bench.broker.publish(batch(1), Lane.BULK)
    (delivery,) = await take(await bench.broker.subscribe(Lane.BULK, 10), 1)
    await delivery.reject("a test")
    assert await peeked(bench) == Counter({(bench.topology.rejected.name, 1): 1})


async def test_a_peek_that_is_broken_off_gives_everything_back(bench: BrokerBench) -> None:
    """Whoever has seen enough closes it; publishing goes on beside it."""
    await asyncio.gather(*(bench.broker.publish(batch(seq), Lane.BULK) for seq in range(50)))
    async with aclosing(bench.broker.peek()) as bodies:
        await anext(bodies)
        await bench.broker.publish(batch(50), Lane.BULK)
    subscription = await bench.broker.subscribe(Lane.BULK, 100)
    assert Counter(first_seq(d) for d in await take(subscription, 51)) == Counter(range(51))


async def test_a_delay_that_ends_during_a_peek_is_not_forgotten(bench: BrokerBench) -> None:
    """A body that should have moved to its lane meanwhile does so once the peek is over."""
    await bench.broker.publish(batch(1), Lane.BULK, after=2)
    async with aclosing(bench.broker.peek()) as bodies:
        assert decode_batch((await anext(bodies))[1])[0] == batch(1)
        # One that began to wait later has waited long enough, so the first one has, too.
        await bench.broker.publish(batch(2), Lane.URGENT, after=2)
        await take(await bench.broker.subscribe(Lane.URGENT, 10), 1)
    (delivery,) = await take(await bench.broker.subscribe(Lane.BULK, 10), 1)
    assert first_seq(delivery) == 1


async def test_consumers_of_the_lanes_are_counted(bench: BrokerBench) -> None:
    """As many as have subscribed and not closed; who looks through a shelf is none of them."""
    assert await bench.broker.consumers() == 0
    subscriptions = [await bench.broker.subscribe(queue, 10) for queue in (*Lane, *ParkedQueue)]

    async def so_many(count: int) -> bool:
        return await bench.broker.consumers() == count

    await eventually(lambda: so_many(2))
    await subscriptions[0].close()
    await eventually(lambda: so_many(1))
    await subscriptions[1].close()
    await eventually(lambda: so_many(0))


async def test_depths_count_what_waits(bench: BrokerBench) -> None:
    """The depth of each queue is told, unacked deliveries left out; of retry queues only those that there are."""
    name = bench.topology.lane(Lane.URGENT).name
    failed, rejected = bench.topology.failed.name, bench.topology.rejected.name
    retry = bench.topology.retry(Lane.BULK, 512).name
    lanes_and_shelves = {bench.topology.name, name, failed, rejected}
    assert await bench.broker.depths() == dict.fromkeys(lanes_and_shelves, 0)
    await asyncio.gather(
        *(bench.broker.publish(batch(seq), Lane.URGENT) for seq in range(4)),
        *(bench.broker.park(batch(seq), Lane.URGENT) for seq in range(2)),
        bench.broker.publish(batch(4), Lane.BULK, after=512),
    )
    await take(await bench.broker.subscribe(Lane.URGENT, 1), 1)

    async def so_many_wait() -> bool:
        return await bench.broker.depths() == {
            bench.topology.name: 0,
            name: 3,
            failed: 2,
            rejected: 0,
            retry: 1,
        }

    await eventually(so_many_wait)
