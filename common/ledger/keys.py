"""Every Redis key and channel of the project, in one place."""

PREFIX = "sms:"

STATS = "sms:stats"  # hash: the counters of all runs together
LATENCY = "sms:latency"  # hash: histogram bucket -> count, all runs
RUNS = "sms:runs"  # sorted set: run -> when it began, Unix time in microseconds
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
    """Prefix of the strings that hold two bits a message, one string for each piece of 131,072 messages."""
    return f"sms:run:{name}:states:"


def unannounced(name: str) -> str:
    """Prefix of the strings that hold one bit a message: counted as published with no announcement."""
    return f"sms:run:{name}:unannounced:"


def replayed(name: str) -> str:
    """Prefix of the strings that hold one bit a message: replayed under another run."""
    return f"sms:run:{name}:replayed:"


def forgotten(name: str) -> str:
    """String: stands for a while where a run was forgotten, so that late copies of its messages don't count again."""
    return f"sms:run:{name}:forgotten"


def sender(name: str) -> str:
    """Hash: a sender's counters, slots and sends in flight."""
    return f"sms:sender:{name}"


def rate(queue: str) -> str:
    """Hash: the token bucket of the senders of a queue."""
    return f"sms:rate:{queue}"
