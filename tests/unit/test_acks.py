"""Acks of a channel: few frames, each for a delivery that RabbitMQ still waits for."""

import asyncio
from typing import Any

from common.broker.rabbitmq.deliveries import Acks, Consumer


class FakeChannel:
    is_open = True

    def __init__(self) -> None:
        self.frames: list[tuple[int, bool]] = []

    def basic_ack(self, tag: int, multiple: bool = False) -> None:
        self.frames.append((tag, multiple))


async def acked(came: list[int], *turns: list[int]) -> list[tuple[int, bool]]:
    """The frames for acks that are given in some turns of the loop."""
    channel: Any = FakeChannel()
    acks = Acks(channel)
    consumer = Consumer(prefetch=10)
    for tag in came:
        acks.expect(tag, consumer)
    for turn in turns:
        for tag in turn:
            acks.ack(tag)
        await asyncio.sleep(0)
    left = set(came) - {tag for turn in turns for tag in turn}
    assert unacked(came, channel.frames) == left
    assert consumer.unacked == len(left)
    frames: list[tuple[int, bool]] = channel.frames
    return frames


def unacked(came: list[int], frames: list[tuple[int, bool]]) -> set[int]:
    """The deliveries that RabbitMQ waits for after some frames. It closes the channel if a frame's tag is unknown."""
    left = set(came)
    for tag, multiple in frames:
        assert tag in left
        left -= {one for one in left if one == tag or (multiple and one < tag)}
    return left


async def test_acks_that_are_next_in_line_share_a_frame() -> None:
    """In any order of the acks."""
    assert await acked([1, 2, 3, 4], [3, 1, 2]) == [(3, True)]


async def test_acks_out_of_line_have_frames_of_their_own() -> None:
    """They do not delay or end the next shared frame: RabbitMQ would not find an acked tag again."""
    assert await acked([1, 2, 3, 4], [3], [1, 2]) == [(3, False), (2, True)]
    assert await acked([1, 2, 3, 4], [2], [1]) == [(2, False), (1, True)]


async def test_deliveries_that_never_came_to_us_leave_no_gap() -> None:
    """Pika gives back by itself what comes for a consumer that is being cancelled."""
    assert await acked([1, 2, 5, 6], [1, 2, 5, 6]) == [(6, True)]
