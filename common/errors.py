"""The errors of this project. Each one implies what its caller can do.

SmsimError
├── UsageError          the user's mistake: fix the input (exit code 2)
│   ├── RunExists       the run's name is taken: resume it, or choose another
│   ├── UnknownRun      there is no such run: check its name
│   ├── RunBusy         another producer is publishing this run: wait for it
│   └── RunOpen         the run is not over: wait until it is settled
├── Unavailable         a server can't be reached or can't serve now: try again later (exit code 1)
│   └── LedgerLost      a run can't go on, since the ledger lost it or it was closed: begin another
├── Refused             a server refuses, and will refuse again: change the settings (exit code 1)
│   ├── RefusedForNow   its operator may soon allow it: a service that was connected tries again for a while
│   └── TooLarge        a body is over the broker's size limit: publish its messages in smaller ones
├── PublishFailed       a publish was not confirmed: publishing again is safe
├── StaleDelivery       the delivery's connection is gone, so it comes again: drop it
└── BadBody             the body can't be decoded to a batch: reject it, never retry it
"""


class SmsimError(Exception):
    """Root of all errors that this project raises on purpose."""


class UsageError(SmsimError):
    """The user's mistake. The text names the mistake, its place and its remedy."""


class RunExists(UsageError):
    """The ledger has a run of this name."""


class UnknownRun(UsageError):
    """The ledger has no run of this name."""


class RunBusy(UsageError):
    """Another producer, which is alive, is publishing this run."""


class RunOpen(UsageError):
    """The run is not over: some of it is not published, or not settled."""


class Unavailable(SmsimError):
    """RabbitMQ or Redis can't be reached, or can't serve now."""


class LedgerLost(Unavailable):
    """The run can't go on: Redis has lost writes, or another process has closed it. Another run can begin at once."""


class Refused(SmsimError):
    """RabbitMQ or Redis refuses: a wrong password, a wrong queue type. Trying again won't help."""


class RefusedForNow(Refused):
    """RabbitMQ refuses a login, a virtual host, or what is over a limit of its operator's. This may pass."""


class TooLarge(Refused):
    """A body is over RabbitMQ's size limit.

    Attributes:
        most_bytes: The limit.
    """

    def __init__(self, text: str, most_bytes: int) -> None:
        super().__init__(text)
        self.most_bytes = most_bytes


class PublishFailed(SmsimError):
    """A publish was not confirmed: unroutable, refused or disconnected. Publishing again is safe."""


class StaleDelivery(SmsimError):
    """The delivery's connection is gone, so it can't be acked. The broker delivers its body again."""


class BadBody(SmsimError):
    """A body can't be decoded to a batch. The text has no number and no text of a message."""
