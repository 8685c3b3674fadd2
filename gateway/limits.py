"""All limits of a gateway in one place, so that a test can pass its own."""

from dataclasses import dataclass, field

from common.settings import Settings
from common.web.limits import Limits
from gateway.acceptance.limits import AcceptanceLimits, RelayLimits
from gateway.callbacks.limits import CallbackLimits
from gateway.live.limits import LiveLimits


@dataclass(frozen=True, kw_only=True)
class GatewayLimits:
    """The limits of a gateway.

    Attributes:
        web: Of connections and requests.
        acceptance: Of accepting messages.
        relay: Of publishing accepted messages.
        live: Of the live events.
        callbacks: Of callbacks.
    """

    web: Limits = field(default_factory=Limits)
    acceptance: AcceptanceLimits = field(default_factory=AcceptanceLimits)
    relay: RelayLimits = field(default_factory=RelayLimits)
    live: LiveLimits = field(default_factory=LiveLimits)
    callbacks: CallbackLimits = field(default_factory=CallbackLimits)


def limits_of(settings: Settings) -> GatewayLimits:
    """The limits of a gateway in production."""
    return GatewayLimits(
        web=Limits(
            connections=settings.gateway_connections,
            connections_per_address=settings.gateway_address_connections,
        )
    )
