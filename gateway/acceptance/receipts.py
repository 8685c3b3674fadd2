"""Receipts and refusals of messages, and their first step."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from common.messages import Message
from common.tracking.port import Status, Step
from common.web.problems import FieldError, Problem
from common.web.validation import invalid
from gateway.acceptance.port import Exceptional, Verdict

KEY_HEADER = "Idempotency-Key"
RETRY_AFTER_S = 2.0

Tell = Callable[[Sequence[Step]], None]
Expect = Callable[[Sequence[str]], None]


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """The receipt of an accepted message or run.

    Attributes:
        id: The message id; of a run, the run's.
        is_replayed: Whether it was accepted by an earlier request with the same Idempotency-Key.
    """

    id: str
    is_replayed: bool = False


def receipt_of(exceptional: Exceptional) -> Receipt:
    """The receipt of a request that was accepted earlier. Raises the Problem of one that is not accepted."""
    match exceptional.verdict:
        case Verdict.REPLAYED:
            return Receipt(exceptional.id, is_replayed=True)
        case Verdict.CONFLICT:
            raise invalid(
                [FieldError(f"header.{KEY_HEADER}", "came with another request before: use a new one")]
            )
        case Verdict.FULL:
            raise full()
        case Verdict.TOO_LARGE:
            what = "more than GATEWAY_BACKLOG or GATEWAY_BACKLOG_MEMORY allows to wait: send it as several batches"
            raise Problem(413, what)


def full() -> Problem:
    """The problem of a message for which there is no room in the outboxes."""
    what = "too many messages wait for RabbitMQ: nothing was accepted, try again later"
    return Problem(503, what, retry_after_s=RETRY_AFTER_S)


def short_of_memory() -> Problem:
    """The problem of a run for which the store has no memory."""
    what = "Redis is nearly full: nothing was accepted. Only single messages are, until its operator has made room"
    return Problem(503, what, retry_after_s=RETRY_AFTER_S)


def unanswered() -> Problem:
    """The problem of a message that may be accepted or not, since the store did not answer."""
    what = (
        "Redis does not answer, so it is unknown whether this was accepted: try again, with the same"
        f" {KEY_HEADER} if you sent one; without one it may be sent twice"
    )
    return Problem(503, what, retry_after_s=RETRY_AFTER_S)


def away() -> Problem:
    """The problem of a message that the store was not asked to accept."""
    what = "Redis does not answer: nothing was accepted, try again"
    return Problem(503, what, retry_after_s=RETRY_AFTER_S)


def stopping() -> Problem:
    """The problem of a message that comes too late."""
    return Problem(
        503, "the gateway is stopping: nothing was accepted, try again", retry_after_s=RETRY_AFTER_S
    )


class Announcer:
    """Tells the first step of each accepted message, and has the ends of those awaited that have a callback.

    `tell` publishes steps; `expect` gets the ids of messages that have a callback.
    """

    def __init__(self, tell: Tell, expect: Expect) -> None:
        self._tell = tell
        self._expect = expect

    def accepted(
        self, run: str, messages: Sequence[Message], *, accepted_us: int, called_back: Iterable[int]
    ) -> None:
        """Messages of a run are accepted; those with the seqs `called_back` have a callback."""
        if uuids := [f"{run}.{seq}" for seq in called_back]:
            self._expect(uuids)
        self._tell([_step(run, message, accepted_us) for message in messages])


def _step(run: str, message: Message, accepted_us: int) -> Step:
    return Step(run=run, message=message, status=Status.QUEUED, attempt=0, at_us=accepted_us)
