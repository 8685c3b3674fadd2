"""Limits of the live events: how many clients, how much waits for them, and how often the ledger is read."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveLimits:
    """Bounds and times of the live events; durations in seconds.

    Attributes:
        subscribers: Clients that listen at the same time.
        waiting_bytes: Events that wait for one client. Beyond this it is dropped.
        waiting_frames: The same, in frames.
        gather_s: Events are gathered for this long and joined to one frame.
        gather_bytes: Events sent to one client in that time. What comes beyond them waits for the next frame.
        steps: Steps that wait to be sent. Beyond this, reading from the tracker pauses.
        stall_s: A client that reads nothing for this long is dropped.
        linger_s: How long a dropped client has to read the reason.
        goodbye_s: The same at shutdown.
        heartbeat_s: A silent stream of Server-Sent Events gets a comment this often, so that a dead client is noticed.
        reconnect_ms: Clients of Server-Sent Events reconnect after this time.
        sweep_s: How often stalled clients are looked for.
        recheck_s: How often the API key of a client is checked again.
        poll_s: How often the ledger is read.
        patience_s: How long the ledger may take.
        depths_within_s: How long the broker may take to answer with queue depths to a request for statistics.
        new_queues_s: After retries and failures the broker is asked for new queues, no more often than this.
        runs_kept: Runs that GET /runs lists at most.
        runs_a_poll: Open runs that are read in one poll. More of them take turns.
        reads_at_once: Snapshots that are read at the same time.
        share_s: Concurrent readers of the statistics share one read, and reads begin no more often than this.
    """

    subscribers: int = 2_000
    waiting_bytes: int = 1024 * 1024
    waiting_frames: int = 5_000
    gather_s: float = 0.05
    gather_bytes: int = 512 * 1024
    steps: int = 20_000
    stall_s: float = 10.0
    linger_s: float = 5.0
    goodbye_s: float = 1.0
    heartbeat_s: float = 15.0
    reconnect_ms: int = 2_000
    sweep_s: float = 1.0
    recheck_s: float = 60.0
    poll_s: float = 1.0
    patience_s: float = 5.0
    depths_within_s: float = 0.5
    new_queues_s: float = 60.0
    runs_kept: int = 1_000
    runs_a_poll: int = 200
    reads_at_once: int = 8
    share_s: float = 0.1
