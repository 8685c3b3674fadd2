"""Settings under which strangers could come in: refused at the start, or warned of."""

import logging

import pytest

from common.broker.memory import MemoryBroker
from common.errors import UsageError
from common.settings import load_settings
from gateway.app import Gateway
from gateway.doors import refuse_open_doors
from gateway.stores import memory_gateway_stores
from tests.gateway.running import running


def build(**settings: object) -> None:
    given = load_settings(**settings)
    Gateway(given, MemoryBroker(), memory_gateway_stores(given))


@pytest.mark.parametrize(
    "hosts", ["sms.example.org", "localhost,10.0.0.1", "localhost.evil.example", "0.0.0.0"]
)
def test_without_authentication_only_loopback_names_are_served(hosts: str) -> None:
    """GATEWAY_HOSTS must not open a gateway that asks for no key to others."""
    with pytest.raises(UsageError, match="GATEWAY_HOSTS names others"):
        refuse_open_doors(load_settings(gateway_auth=False, gateway_hosts=hosts))
    refuse_open_doors(load_settings(gateway_auth=True, gateway_hosts=hosts))


@pytest.mark.parametrize(
    "hosts", [None, "localhost", "LOCALHOST:8000, 127.0.0.1", "[::1]:8000,::1", "127.0.0.2"]
)
def test_loopback_names_may_be_named(hosts: str | None) -> None:
    """In any form."""
    refuse_open_doors(load_settings(gateway_auth=False, gateway_hosts=hosts))


async def test_without_authentication_a_proxied_request_is_refused() -> None:
    """By the fast lane's route as well; with authentication on it is a matter of keys."""
    proxied = {"X-Forwarded-For": "203.0.113.7"}
    sms = {"number": "+541166587382", "text": "hello"}
    async with running() as it:
        for _ in range(2):
            assert (await it.post("/sms", sms))[0] == 202
            assert (await it.post("/sms", sms, headers=proxied))[0] == 403
    async with running(gateway_auth=True, gateway_api_key="correct-horse-16") as it:
        assert (await it.post("/sms", sms, headers=proxied | {"X-API-Key": "correct-horse-16"}))[0] == 202


@pytest.mark.parametrize("setting", ["gateway_api_key", "callback_secret"])
def test_a_short_secret_is_refused(setting: str) -> None:
    """It is not repeated in the message."""
    for short in ("x", "fifteen-letters"):
        with pytest.raises(UsageError, match=f"^{setting.upper()}: use at least 16 characters") as caught:
            build(**{setting: short})
        assert len(short) < 2 or short not in str(caught.value)


@pytest.mark.parametrize("setting", ["gateway_api_key", "callback_secret"])
def test_a_secret_of_few_different_characters_is_warned_of(
    setting: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A random one is not."""
    build(**{setting: "a" * 16})
    assert "weak_secret" in caplog.text
    assert setting.upper() in str(caplog.records[-1].__dict__)
    caplog.clear()
    caplog.set_level(logging.WARNING)
    build(**{setting: "9c2b6f1e07d84a35"})
    assert "weak_secret" not in caplog.text
