"""The port of a provider: what sends one SMS. docs/providers.md shows a complete one.

Errors that a provider may raise from `send`:

SendError
├── TemporaryError    not accepted now: another attempt may succeed
└── PermanentError    will never be accepted: the message has failed
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import msgspec

from common.errors import SmsimError
from common.messages import Message, Outcome


class OutgoingMessage(msgspec.Struct, frozen=True, gc=False):
    """One message in one attempt.

    Attributes:
        id: The message id, `<run>.<seq>`. Every attempt has the same one, so it serves as an idempotency key.
        to: The number, in E.164 form.
        text: The text, up to 1,600 characters.
        attempt: The number of this attempt, from 1.
    """

    id: str
    to: str
    text: str
    attempt: int

    @classmethod
    def of(cls, message: Message, run: str, attempt: int) -> "OutgoingMessage":
        """A message of a run."""
        return cls(id=f"{run}.{message.seq}", to=message.to, text=message.text, attempt=attempt)


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a send.

    Attributes:
        outcome: SENT, FAILED (final), or RETRY: another attempt may succeed. The sender decides whether there is one.
        retry_after_s: The shortest wait before another attempt, in seconds, up to 512. Only for RETRY.
        ambiguous: Whether the service may have sent the message although the outcome is not SENT.
        reason: Why it was not sent, in a few words for the log, such as "HTTP 503". Never a number, a text, an
            address or a credential.
    """

    outcome: Outcome
    retry_after_s: float = 0.0
    ambiguous: bool = False
    reason: str = ""


@runtime_checkable
class Provider(Protocol):
    """Sends one message at a time. `single.py` runs as many sends at once as the sender has slots."""

    async def send(self, message: OutgoingMessage) -> Result:
        """Sends a message, and returns when the service has accepted or refused it.

        Any exception but a SendError counts as RETRY and ambiguous: nobody knows whether the message was sent.

        Raises:
            SendError: Same as returning a Result that is not SENT.
        """

    async def close(self) -> None:
        """Releases connections. No send is in progress, and none follows."""


class SendError(SmsimError):
    """A message that was not accepted.

    Attributes:
        result: The result to record.
    """

    def __init__(self, result: Result) -> None:
        super().__init__(result.reason)
        self.result = result


class TemporaryError(SendError):
    """The message was not accepted now: another attempt may succeed. For the arguments see `Result`."""

    def __init__(self, reason: str, *, retry_after_s: float = 0.0, ambiguous: bool = False) -> None:
        super().__init__(
            Result(
                outcome=Outcome.RETRY,
                retry_after_s=retry_after_s,
                ambiguous=ambiguous,
                reason=reason,
            )
        )


class PermanentError(SendError):
    """The message will never be accepted: it has failed. For the argument see `Result`."""

    def __init__(self, reason: str) -> None:
        super().__init__(Result(Outcome.FAILED, reason=reason))
