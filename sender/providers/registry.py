"""Providers by name: the built-in ones, and those of installed packages (docs/providers.md).

A package offers a provider by an entry point: its name is the value of PROVIDER, and it refers to a factory. The
built-in ones are listed here, since the services also run from a folder, with no package installed.
"""

from collections.abc import Callable, Coroutine
from importlib.metadata import EntryPoint, entry_points

from common.errors import UsageError
from common.settings import Settings
from sender.providers.bulk import BulkProvider
from sender.providers.port import Provider
from sender.providers.simulated import SimulatedProvider
from sender.providers.simulated import create as create_simulated
from sender.providers.single import BulkAdapter
from sender.providers.split import SplitProvider

GROUP = "smsim.providers"
BUILT_IN = [
    EntryPoint("simulated", "sender.providers.simulated:create", GROUP),
    EntryPoint("http", "sender.providers.http:create", GROUP),
]

Factory = Callable[[Settings], Provider | BulkProvider]


def build_provider(settings: Settings) -> BulkProvider:
    """Builds the provider that PROVIDER names, for a sender of SENDER_CONCURRENCY slots.

    Beside one that really sends stands the simulated one, for the messages that must not be sent.

    Raises:
        UsageError: No provider, or more than one, has this name; it can't be loaded, or its settings are wrong.
    """
    provider = _named(settings)
    if isinstance(provider, SimulatedProvider):
        return provider
    return SplitProvider(provider, create_simulated(settings))


def _named(settings: Settings) -> BulkProvider:
    provider = _factory(settings.provider)(settings)
    if isinstance(provider, Coroutine):  # it has the methods send and close, too
        provider.close()
        raise UsageError(f"PROVIDER={settings.provider}: its factory must not be a coroutine function")
    if isinstance(provider, BulkProvider):
        return provider
    if isinstance(provider, Provider):
        return BulkAdapter(provider)
    raise UsageError(
        f"PROVIDER={settings.provider}: its factory returned {type(provider).__name__}, which is not a provider: "
        "it needs the methods send and close"
    )


def _factory(name: str) -> Factory:
    entry_point = _entry_point(name)
    try:
        factory: Factory = entry_point.load()
    except Exception as error:  # a package may raise anything while it is imported
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UsageError(f"PROVIDER={name}: {entry_point.value} can't be loaded: {reason}") from error
    if not callable(factory):
        raise UsageError(f"PROVIDER={name}: {entry_point.value} is not a function that returns a provider")
    return factory


def _entry_point(name: str) -> EntryPoint:
    """The entry point of this name; built-in providers win."""
    for built_in in BUILT_IN:
        if built_in.name == name:
            return built_in
    installed = entry_points(group=GROUP)
    found = list(installed.select(name=name))
    if not found:
        known = sorted({each.name for each in [*BUILT_IN, *installed]})
        raise UsageError(f"PROVIDER={name}: unknown provider; known: {', '.join(known)}")
    if len({each.value for each in found}) > 1:
        packages = sorted(each.dist.name for each in found if each.dist is not None)
        raise UsageError(
            f"PROVIDER={name}: offered by several packages, uninstall all but one: {', '.join(packages)}"
        )
    return found[0]
