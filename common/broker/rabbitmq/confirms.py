"""The confirms of one channel: a future for each publish, done when RabbitMQ has confirmed or refused it."""

import asyncio
from typing import NamedTuple

from pika.spec import Basic

from common.errors import PublishFailed, Refused, SmsimError


class _Name(NamedTuple):
    """The name of a publish in a return. A batch may be on its way to two queues, so the queue is a part of it."""

    queue: str
    message_id: str


class _Unconfirmed(NamedTuple):
    """A publish without a confirm yet."""

    name: _Name
    confirm: "asyncio.Future[None]"


class Confirms:
    """The publishes that are not confirmed yet, by RabbitMQ's delivery tag."""

    def __init__(self) -> None:
        self._unconfirmed: dict[int, _Unconfirmed] = {}
        self._returned: set[_Name] = set()
        self._next_tag = self._oldest_tag = 1

    def published(self, queue: str, message_id: str) -> "asyncio.Future[None]":
        """The next publish of the channel; the future is done with its confirm. Raises PublishFailed from it."""
        confirm: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unconfirmed[self._next_tag] = _Unconfirmed(_Name(queue, message_id), confirm)
        self._next_tag += 1
        return confirm

    def returned(self, queue: str, message_id: str) -> None:
        """RabbitMQ has returned a publish that it could not route. Its confirm follows."""
        self._returned.add(_Name(queue, message_id))

    def confirmed(self, method: Basic.Ack | Basic.Nack) -> bool:
        """RabbitMQ has confirmed or refused some publishes. Answers whether one of them was returned before."""
        acked = isinstance(method, Basic.Ack)
        first = self._oldest_tag if method.multiple else method.delivery_tag
        unroutable = False
        for tag in range(first, method.delivery_tag + 1):
            publish = self._unconfirmed.pop(tag, None)
            if publish is not None and not publish.confirm.done():  # done if its caller was cancelled
                unroutable |= self._settle(publish, acked)
        if method.multiple:
            self._oldest_tag = method.delivery_tag + 1
        return unroutable

    def fail_all(self, why: str, kind: type[PublishFailed | Refused] = PublishFailed) -> None:
        """The channel is gone: all publishes have failed, and tags begin with 1 again."""
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        self._returned.clear()
        self._next_tag = self._oldest_tag = 1
        for publish in unconfirmed.values():
            if not publish.confirm.done():
                publish.confirm.set_exception(kind(why))

    def _settle(self, publish: _Unconfirmed, acked: bool) -> bool:
        if publish.name in self._returned:
            self._returned.discard(publish.name)
            publish.confirm.set_exception(PublishFailed(f"RabbitMQ has no queue {publish.name.queue}"))
            return True
        if acked:
            publish.confirm.set_result(None)
        else:
            publish.confirm.set_exception(PublishFailed("RabbitMQ refused the message (nack)"))
        return False


def failed(error: SmsimError) -> "asyncio.Future[None]":
    """The future of a publish that has failed already."""
    confirm: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    confirm.set_exception(error)
    return confirm
