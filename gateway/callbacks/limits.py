"""How long callbacks wait, and how many are processed at once."""

from dataclasses import dataclass, field

from gateway.callbacks.hosts import HostLimits


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How long the store keeps a callback.

    Attributes:
        message_s: How long to wait until the message ends.
        retry_s: How much longer delivery may be attempted.
        first_check_s: When the message is first checked, if no event triggers an earlier check.
    """

    message_s: float = 86_400.0
    retry_s: float = 4 * 3_600.0
    first_check_s: float = 5.0

    @property
    def total_s(self) -> float:
        """When the store forgets the callback."""
        return self.message_s + self.retry_s


@dataclass(frozen=True, kw_only=True)
class CallbackLimits:
    """The limits of delivery.

    Attributes:
        held: Most callbacks that wait or are being delivered in this process.
        expected: Most messages whose events are awaited. The store's schedule finds the others.
        page: Most callbacks that are leased at a time.
        poll_s: How often callbacks that are due are leased.
        min_pause_s, max_pause_s: Bounds of the pause before a message that has not ended is checked again.
        min_lease_s: An attempt starts only if the lease lasts this much longer.
        attempts: Attempts before a callback is given up. By default 8 within about 68 minutes.
        first_retry_s: Pause after the first failed attempt.
        retry_factor: How much longer each further pause is.
        connect_s: How much of `attempt_s` may pass until the connection is ready.
        stop_s: How long the store may take to get callbacks back when the gateway stops.
    """

    held: int = 16_384
    expected: int = 100_000
    page: int = 256
    poll_s: float = 1.0
    min_pause_s: float = 1.0
    max_pause_s: float = 300.0
    lease_s: float = 60.0
    min_lease_s: float = 15.0
    attempts: int = 8
    first_retry_s: float = 10.0
    retry_factor: float = 2.5
    attempt_s: float = 10.0
    connect_s: float = 3.0
    stop_s: float = 1.0
    hosts: HostLimits = field(default_factory=HostLimits)
