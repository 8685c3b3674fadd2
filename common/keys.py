"""Every Redis key and channel of the project, in one place."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """The names that a stack uses. Two stacks in one Redis have no name in common.

    Attributes:
        stack: The prefix of each name (STACK).
        database: The number of the database (REDIS_DB). Pub/Sub is common to all databases.
    """

    stack: str = "sms"
    database: int = 0

    @property
    def stats(self) -> str:
        """Hash: the counters of all runs together."""
        return f"{self.stack}:stats"

    @property
    def total_latency(self) -> str:
        """Hash: histogram bucket -> count, all runs."""
        return f"{self.stack}:latency"

    @property
    def runs(self) -> str:
        """Sorted set: run -> when it began, Unix time in microseconds."""
        return f"{self.stack}:runs"

    @property
    def open_runs(self) -> str:
        """The same, of the runs that are not over."""
        return f"{self.stack}:runs:open"

    @property
    def ready(self) -> str:
        """String: written to see whether Redis takes writes."""
        return f"{self.stack}:ready"

    @property
    def senders(self) -> str:
        """Sorted set: sender -> its last heartbeat, Unix time in microseconds."""
        return f"{self.stack}:senders"

    @property
    def outbox_totals(self) -> str:
        """Hash: messages and bytes in the outboxes of all runs, and bytes of what is kept for show."""
        return f"{self.stack}:outbox"

    @property
    def kept(self) -> str:
        """List: the groups of messages that are kept for show, the oldest first."""
        return f"{self.stack}:kept"

    @property
    def api_keys(self) -> str:
        """Hash: id -> what is known of the key, with the hash of its secret."""
        return f"{self.stack}:api-keys"

    @property
    def api_key_uses(self) -> str:
        """Hash: id -> when the key was used last, Unix time in microseconds."""
        return f"{self.stack}:api-keys:uses"

    @property
    def callbacks(self) -> str:
        """Sorted set: message id -> when its callback is due, Unix time in microseconds."""
        return f"{self.stack}:callbacks"

    def run(self, name: str) -> str:
        """Hash: a run's counters, recipe and progress."""
        return f"{self.stack}:run:{name}"

    def latency(self, name: str) -> str:
        """Hash: a run's histogram."""
        return f"{self.stack}:run:{name}:latency"

    def pieces(self, name: str) -> str:
        """Set: the numbers of the pieces that a run's states have."""
        return f"{self.stack}:run:{name}:pieces"

    def states(self, name: str) -> str:
        """Prefix of the strings that hold two bits a message, one string for each piece of 131,072 messages.

        A piece of which nobody has announced a message is a hash of blocks of 256 messages.
        """
        return f"{self.stack}:run:{name}:states:"

    def unannounced(self, name: str) -> str:
        """Prefix of the hashes of blocks that mark a message that was counted as published with no announcement."""
        return f"{self.stack}:run:{name}:unannounced:"

    def replayed(self, name: str) -> str:
        """Prefix of the strings that hold one bit a message: replayed under another run."""
        return f"{self.stack}:run:{name}:replayed:"

    def canceled(self, name: str) -> str:
        """Prefix of the strings that hold two bits a message, as its state: canceled if the lower one is set."""
        return f"{self.stack}:run:{name}:canceled:"

    def forgotten(self, name: str) -> str:
        """String: marks a forgotten run for a while, so that late copies of its messages do not count again."""
        return f"{self.stack}:run:{name}:forgotten"

    def sender(self, name: str) -> str:
        """Hash: a sender's counters, slots and sends in flight."""
        return f"{self.stack}:sender:{name}"

    def rate(self, queue: str) -> str:
        """Hash: the token bucket of the senders of a queue."""
        return f"{self.stack}:rate:{queue}"

    def message(self, uuid: str) -> str:
        """List: the record of a tracked message, then its steps."""
        return f"{self.stack}:message:{uuid}"

    def texts(self, name: str) -> str:
        """Hash: numbers and texts of a run's untracked messages, in chunks."""
        return f"{self.stack}:texts:{name}"

    def outbox(self, name: str) -> str:
        """Hash: the lease of a run of a gateway, how far it is relayed, and the last answer of `accept`."""
        return f"{self.stack}:outbox:{name}"

    def leases(self, queue: str) -> str:
        """Sorted set: runs that a gateway relays to a queue -> when the lease ends, Unix time in microseconds."""
        return f"{self.stack}:leases:{queue}"

    def idempotency_key(self, caller: str, digest: str) -> str:
        """String: the fingerprint of the request that came with an Idempotency-Key, and the id that it was given."""
        return f"{self.stack}:idempotency-key:{caller}:{digest}"

    def callback(self, uuid: str) -> str:
        """Hash: a registered callback."""
        return f"{self.stack}:callback:{uuid}"

    @property
    def queue(self) -> str:
        """String: the name of the queue whose messages are counted here."""
        return f"{self.stack}:queue"

    def channel(self, step: str) -> str:
        """Pub/Sub channel: the steps of messages, as JSON."""
        return f"{self.stack}:{self.database}:{step}"
