"""Every Redis key and channel of the project, in one place."""

STATS = "sms:stats"  # hash: the counters of all runs together
LATENCY = "sms:latency"  # hash: histogram bucket -> count, all runs
RUNS = "sms:runs"  # sorted set: run -> when it began, Unix time in microseconds
OPEN_RUNS = "sms:runs:open"  # the same, of the runs that are not over
READY = "sms:ready"  # string: written to see whether Redis takes writes
SENDERS = "sms:senders"  # sorted set: sender -> its last heartbeat, Unix time in microseconds


def run(name: str) -> str:
    """Hash: a run's counters, recipe and progress."""
    return f"sms:run:{name}"


def latency(name: str) -> str:
    """Hash: a run's histogram."""
    return f"sms:run:{name}:latency"


def pieces(name: str) -> str:
    """Set: the numbers of the pieces that a run's states have."""
    return f"sms:run:{name}:pieces"


def states(name: str) -> str:
    """Prefix of the strings that hold two bits a message, one string for each piece of 131,072 messages.

    A piece of which nobody has announced a message is a hash of blocks of 256 messages.
    """
    return f"sms:run:{name}:states:"


def unannounced(name: str) -> str:
    """Prefix of the hashes of blocks that mark a message that was counted as published with no announcement."""
    return f"sms:run:{name}:unannounced:"


def replayed(name: str) -> str:
    """Prefix of the strings that hold one bit a message: replayed under another run."""
    return f"sms:run:{name}:replayed:"


def canceled(name: str) -> str:
    """Prefix of the strings that hold two bits a message, as its state: canceled if the lower one is set."""
    return f"sms:run:{name}:canceled:"


def forgotten(name: str) -> str:
    """String: stands for a while where a run was forgotten, so that late copies of its messages don't count again."""
    return f"sms:run:{name}:forgotten"


def sender(name: str) -> str:
    """Hash: a sender's counters, slots and sends in flight."""
    return f"sms:sender:{name}"


def rate(queue: str) -> str:
    """Hash: the token bucket of the senders of a queue."""
    return f"sms:rate:{queue}"


def message(uuid: str) -> str:
    """List: the record of a tracked message, then its steps."""
    return f"sms:message:{uuid}"


def texts(name: str) -> str:
    """Hash: numbers and texts of a run's untracked messages, in chunks."""
    return f"sms:texts:{name}"


OUTBOX = (
    "sms:outbox"  # hash: messages and bytes in the outboxes of all runs, and bytes of what is kept for show
)
KEPT = "sms:kept"  # list: the groups of messages that are kept for show, the oldest first


def outbox(name: str) -> str:
    """Hash: the lease of a run of a gateway, how far it is relayed, and the last answer of `accept`."""
    return f"sms:outbox:{name}"


def leases(queue: str) -> str:
    """Sorted set: runs that a gateway relays to a queue -> when the lease ends, Unix time in microseconds."""
    return f"sms:leases:{queue}"


def idempotency_key(caller: str, digest: str) -> str:
    """String: the fingerprint of the request that came with an Idempotency-Key, and the id that it was given."""
    return f"sms:idempotency-key:{caller}:{digest}"


API_KEYS = "sms:api-keys"  # hash: id -> what is known of the key, with the hash of its secret
API_KEY_USES = "sms:api-keys:uses"  # hash: id -> when the key was used last, Unix time in microseconds
CALLBACKS = "sms:callbacks"  # sorted set: message id -> when its callback is due, Unix time in microseconds


def callback(uuid: str) -> str:
    """Hash: a registered callback."""
    return f"sms:callback:{uuid}"
