"""The errors of this project, as one small tree; each says what its caller can do.

SmsimError
├── UsageError          a mistake of the user's: fix the input (exit code 2)
│   ├── RunExists       the run's name is taken: resume it, or choose another
│   ├── UnknownRun      no such run: look at its name
│   ├── RunBusy         another producer is publishing this run: wait for it
│   └── RunOpen         the run is not over: wait until it is settled
├── Unavailable         a server can't be reached or can't serve now: try again later (exit code 1)
│   └── LedgerLost      a run can't go on, since the ledger lost it or somebody ended it: another can begin
├── Refused             a server answered no, and will again: change the settings (exit code 1)
├── PublishFailed       a publish was not confirmed: publishing again is safe
├── StaleDelivery       the delivery's connection is gone, so it comes again: drop it
└── BadBody             a body that is no batch: reject it, never retry it
"""


class SmsimError(Exception):
    """Root of all errors that this project raises on purpose."""


class UsageError(SmsimError):
    """A mistake of the user's; the text says what is wrong, where, and what to do."""


class RunExists(UsageError):
    """A run of this name stands in the ledger already."""


class UnknownRun(UsageError):
    """No run of this name stands in the ledger."""


class RunBusy(UsageError):
    """Another producer, alive a moment ago, is publishing this run."""


class RunOpen(UsageError):
    """The run is not over: some of it is not published, or not settled."""


class Unavailable(SmsimError):
    """RabbitMQ or Redis can't be reached, or can't serve now."""


class LedgerLost(Unavailable):
    """This run can't go on: Redis has lost writes of it, or somebody else has ended it. Another may begin at once."""


class Refused(SmsimError):
    """RabbitMQ or Redis answers and refuses: wrong password, wrong queue type. Trying again won't help."""


class PublishFailed(SmsimError):
    """A publish that was not confirmed: unroutable, refused or disconnected. Publishing again is safe."""


class StaleDelivery(SmsimError):
    """A delivery whose connection is gone can't be acked; the broker delivers it again."""


class BadBody(SmsimError):
    """A body that can't be decoded to a batch. The text names no number and no text of a message."""
