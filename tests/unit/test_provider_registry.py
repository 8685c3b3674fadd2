"""sender/providers/registry.py: PROVIDER names a built-in provider, or one of an installed package."""

from pathlib import Path

import pytest

from common.errors import UsageError
from common.settings import Settings
from sender.providers.bulk import BulkProvider
from sender.providers.registry import BUILT_IN, build_provider
from sender.providers.simulated import SimulatedProvider
from sender.providers.single import BulkAdapter
from sender.providers.split import SplitProvider

pytestmark = pytest.mark.usefixtures("bare_environment")

MODULE = """
class Pigeon:
    async def send(self, message):
        raise NotImplementedError

    async def close(self):
        pass

class Flock(Pigeon):
    reads_messages = True

    def start(self, sends):
        pass

create = lambda settings: Pigeon()
create_bulk = lambda settings: Flock()
create_none = lambda settings: "a string"
not_callable = 3

async def create_later(settings):
    return Pigeon()
"""


def install(folder: Path, package: str, entry_points: str) -> None:
    """Puts a package there as pip would, on the import path or not."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[smsim.providers]\n{entry_points}\n")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages, with the module `pigeon_post` in it."""
    (tmp_path / "pigeon_post.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


async def test_the_built_in_providers() -> None:
    """The default simulates, in its bulk form; http sends one message at a time, through the adapter."""
    assert isinstance(build_provider(Settings()), SimulatedProvider)
    http = build_provider(Settings(provider="http", provider_url="http://localhost/"))
    assert isinstance(real(http), BulkAdapter)


def real(provider: BulkProvider) -> BulkProvider:
    """The provider that really sends."""
    assert isinstance(provider, SplitProvider)
    return provider.real


def test_an_installed_package_brings_a_provider(packages: Path) -> None:
    """Its factory is found by the name of the entry point; a provider in the bulk form is taken as it is."""
    install(packages, "pigeon-post", "pigeon = pigeon_post:create\nflock = pigeon_post:create_bulk")
    assert isinstance(real(build_provider(Settings(provider="pigeon"))), BulkAdapter)
    assert type(real(build_provider(Settings(provider="flock")))).__name__ == "Flock"


def test_an_unknown_name_is_one_line_with_those_known(packages: Path) -> None:
    """Built-in ones and those of packages, in order."""
    install(packages, "pigeon-post", "pigeon = pigeon_post:create")
    known = ", ".join(sorted(["pigeon", *(each.name for each in BUILT_IN)]))
    with pytest.raises(UsageError, match=rf"^PROVIDER=owl: unknown provider; known: {known}$"):
        build_provider(Settings(provider="owl"))


def test_a_built_in_name_is_not_taken_over(packages: Path) -> None:
    """An installed package can't change what `simulated` means."""
    install(packages, "pigeon-post", "simulated = pigeon_post:create")
    assert isinstance(build_provider(Settings()), SimulatedProvider)


def test_a_name_of_two_packages_is_one_line(packages: Path) -> None:
    """Which of them would send is not left to chance."""
    install(packages, "pigeon-post", "pigeon = pigeon_post:create")
    install(packages, "rock-dove", "pigeon = pigeon_post:create_bulk")
    with pytest.raises(UsageError, match=r"^PROVIDER=pigeon: offered by several .*: pigeon-post, rock-dove$"):
        build_provider(Settings(provider="pigeon"))


@pytest.mark.parametrize("value", ["no_such_module:create", "pigeon_post:no_such_factory"])
def test_a_provider_that_can_not_be_loaded_is_one_line(packages: Path, value: str) -> None:
    """A package that is half installed is named, and the reason."""
    install(packages, "pigeon-post", f"pigeon = {value}")
    with pytest.raises(UsageError, match=rf"^PROVIDER=pigeon: {value} can't be loaded: .*no_such"):
        build_provider(Settings(provider="pigeon"))


def test_a_factory_that_returns_no_provider_is_one_line(packages: Path) -> None:
    """The line names what is missing."""
    install(packages, "pigeon-post", "pigeon = pigeon_post:create_none")
    with pytest.raises(UsageError, match=r"^PROVIDER=pigeon: its factory returned str, .* send and close$"):
        build_provider(Settings(provider="pigeon"))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('no licence file\\nor two')", "RuntimeError: no licence file"),
        ("def (", "SyntaxError: "),
    ],
)
def test_a_module_that_raises_on_import_is_one_line(packages: Path, source: str, reason: str) -> None:
    """Any error of a package's module is reported as that of a missing one."""
    (packages / "broken_post.py").write_text(source)
    install(packages, "broken-post", "broken = broken_post:create")
    with pytest.raises(
        UsageError, match=rf"^PROVIDER=broken: broken_post:create can't be loaded: {reason}.*\Z"
    ):
        build_provider(Settings(provider="broken"))


def test_an_entry_point_that_is_no_function_is_one_line(packages: Path) -> None:
    """The line names it."""
    install(packages, "pigeon-post", "pigeon = pigeon_post:not_callable")
    with pytest.raises(UsageError, match=r"^PROVIDER=pigeon: pigeon_post:not_callable is not a function"):
        build_provider(Settings(provider="pigeon"))


def test_a_factory_that_is_a_coroutine_function_is_one_line(packages: Path) -> None:
    """A coroutine has the methods send and close: taken for a provider, it would fail every message."""
    install(packages, "pigeon-post", "pigeon = pigeon_post:create_later")
    with pytest.raises(UsageError, match=r"^PROVIDER=pigeon: its factory must not be a coroutine function$"):
        build_provider(Settings(provider="pigeon"))
