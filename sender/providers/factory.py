"""Which provider the settings ask for."""

from common.settings import ProviderName, Settings
from sender.providers.bulk import BulkProvider
from sender.providers.http import HttpProvider
from sender.providers.simulated import SimulatedProvider
from sender.slots import Slots


def provider_of(settings: Settings, slots: int) -> BulkProvider:
    """The provider for a sender of so many slots; those kept for urgent messages come on top.

    Raises UsageError if its profile is no good, or the system has no room for so many connections.
    """
    if settings.provider is ProviderName.HTTP:
        assert settings.provider_url is not None  # the settings see to it
        return HttpProvider(str(settings.provider_url), Slots(slots).total, settings.provider_timeout)
    return SimulatedProvider.from_settings(settings)
