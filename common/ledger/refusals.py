"""The texts of a ledger's errors, the same in every implementation."""

from common.errors import LedgerLost, RunBusy, RunExists, RunOpen, UnknownRun


def run_exists(run: str) -> RunExists:
    """The name is taken."""
    return RunExists(f"run {run} exists already: choose another name, or continue it with --resume {run}")


def run_busy(run: str, producer: str) -> RunBusy:
    """Another producer is alive."""
    return RunBusy(f"run {run} is being published by {producer}: wait until it has ended")


def unknown_run(run: str) -> UnknownRun:
    """There is no such run."""
    return UnknownRun(f"no run {run} in the ledger")


def run_open(run: str, *, published: int, settled: int, total: int) -> RunOpen:
    """The run is not over."""
    messages = max(total, published)
    return RunOpen(f"run {run} is not over: {messages} messages, {published} published, {settled} settled")


def never_begun(run: str) -> RunOpen:
    """No producer has begun the run, so it may get more messages."""
    return RunOpen(
        f"run {run} was not begun by a producer, so more messages may come: it expires RUN_TTL after its last message"
    )


def announcements_lost(run: str, announced: int, first: int) -> LedgerLost:
    """The seqs from `announced` to below `first` were announced, and the ledger does not know them."""
    return LedgerLost(
        f"the ledger no longer has seqs {announced} to {first - 1} of run {run}, which were announced: Redis has lost"
        " writes, by a failover, a FLUSHALL or a crash without appendfsync always"
    )


def run_closed(run: str) -> LedgerLost:
    """The run was closed while its producer was publishing it."""
    return LedgerLost(
        f"run {run} was closed by smsim cancel, another gateway or smsim audit --repair:"
        " no more can be published in it"
    )
