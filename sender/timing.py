"""The timing and the limits of a sender. `Sender` takes both and passes them down; a test passes its own."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of a sender, in seconds except for the share.

    Attributes:
        heartbeat_s: Interval of the heartbeats.
        last_settle_s: How long the last settle may take after the grace is over. Docker kills 10 s after SIGTERM.
        longest_unsettled_s: Longest time from the end of a send to its settle: a crash leaves no more unrecorded.
        shortest_unsettled_s: The same while slots stand idle.
        merge_s: How long messages to be retried are gathered, so that they share copies.
        gathering_share: Free slots and new messages are gathered for this share of a send's time before the next
            claim. Large claims are cheap; the wait costs about this share of the throughput.
        longest_gathering_s: Longest time of gathering.
        overdue_s: A batch that cannot be finished within this time is published again in smaller ones. RabbitMQ
            takes back what is not acked within its consumer timeout, 30 minutes by default.
        review_s: Interval at which prefetch may fall and overdue batches are looked for.
        calm_s: Prefetch falls once less was enough for this long.
        ahead_of_limit_s: How much waits for a rate limit at most, as the time in which the limit grants it.
    """

    heartbeat_s: float = 2.0
    last_settle_s: float = 1.5
    longest_unsettled_s: float = 0.1
    shortest_unsettled_s: float = 0.005
    merge_s: float = 0.1
    gathering_share: float = 0.01
    longest_gathering_s: float = 0.02
    overdue_s: float = 600.0
    review_s: float = 0.25
    calm_s: float = 3.0
    ahead_of_limit_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The sizes that a sender keeps within.

    Attributes:
        settle_messages: Ended sends that are settled at once, without waiting for more.
        copy_messages: Most messages of a copy for another attempt.
        decoded_messages: Most messages of a lane that stay decoded after a first copy, in case another is needed.
        unacked_bytes: Most memory of a lane's unacked deliveries, beyond the deliveries that its slots alone need.
        delivery_bytes: Memory of a delivery beside its body.
        ahead: Messages that wait for the slots that come free next, as a share of the slots: one part in this many.
        first_prefetch: Prefetch before the first delivery, which shows the size of the batches.
        prefetch_past_rejects: Prefetch while all deliveries so far had to be rejected.
        mean_deliveries: The mean size of batches is that of about this many deliveries.
        smallest_raise: A raise of the prefetch adds at least this share of it.
        largest_rest: Prefetch falls only if less than this share of it was enough.
        remembered: In each `Timing.calm_s` with deliveries, the size of the largest batch falls to this share at most.
    """

    settle_messages: int = 16_384
    copy_messages: int = 512
    decoded_messages: int = 1_000_000
    unacked_bytes: int = 256 * 1024 * 1024
    delivery_bytes: int = 4096
    ahead: int = 16
    first_prefetch: int = 1
    prefetch_past_rejects: int = 16
    mean_deliveries: int = 32
    smallest_raise: float = 0.125
    largest_rest: float = 0.75
    remembered: float = 0.9


TIMING = Timing()
LIMITS = Limits()
