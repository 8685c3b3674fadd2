"""gateway/callbacks/signing.py: Standard Webhooks, a secret for each API key, and two while one is changed."""

import base64
import hashlib
import hmac

import pytest

from common.errors import UsageError
from common.settings import load_settings
from gateway.callbacks.signing import Signer, signer_of

OLD, NEW = "the secret of last year", "the secret of this year"


def signatures(signer: Signer, owner: str | None = None) -> list[str]:
    """Of one callback."""
    return signer.headers(owner, "id", at_s=1, body=b"body")["webhook-signature"].split(" ")


def test_the_example_of_the_specification() -> None:
    """The values are those of the tests of its reference libraries (github.com/standard-webhooks/standard-webhooks)."""
    signer = Signer(["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
    headers = signer.headers(
        None, "msg_p5jXN8AQM9LWM0D4loKWxJek", at_s=1614265330, body=b'{"test": 2432232314}'
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_each_key_has_a_secret_of_its_own() -> None:
    """What a key's receivers know signs neither for another key nor for the operator."""
    signer = Signer([NEW])
    owners = ["abc", "abd", "settings"]
    assert len({signer.secret_of(owner) for owner in owners}) == len({*map(str, owners)})
    key = base64.b64decode(signer.secret_of("abc").removeprefix("whsec_"))
    expected = base64.b64encode(hmac.digest(key, b"id.1.body", hashlib.sha256)).decode()
    assert signatures(signer, "abc") == [f"v1,{expected}"]
    assert signatures(signer, "abd") != [f"v1,{expected}"]


@pytest.mark.parametrize("owner", [None, "anonymous", "settings"])
def test_callers_of_the_operator_have_the_secret_itself(owner: str | None) -> None:
    """GATEWAY_API_KEY, and everybody where authentication is off."""
    expected = base64.b64encode(hmac.digest(NEW.encode(), b"id.1.body", hashlib.sha256)).decode()
    assert signatures(Signer([NEW]), owner) == [f"v1,{expected}"]


@pytest.mark.parametrize("owner", [None, "abc"])
def test_both_secrets_sign_while_one_is_changed(owner: str | None) -> None:
    """Receivers may change one after the other."""
    both = signatures(Signer([NEW, OLD]), owner)
    assert both == [*signatures(Signer([NEW]), owner), *signatures(Signer([OLD]), owner)]


def test_the_signer_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """None without a secret; a short one is refused by name, whichever it is."""
    assert signer_of(load_settings()) is None
    monkeypatch.setenv("CALLBACK_SECRET", NEW)
    monkeypatch.setenv("CALLBACK_SECRET_PREVIOUS", OLD)
    signer = signer_of(load_settings())
    assert signer is not None
    assert len(signatures(signer)) == 2
    monkeypatch.setenv("CALLBACK_SECRET_PREVIOUS", "short")
    with pytest.raises(UsageError, match="CALLBACK_SECRET_PREVIOUS: use at least 16"):
        signer_of(load_settings())
    monkeypatch.setenv("CALLBACK_SECRET", "whsec_not base64 at all")
    monkeypatch.delenv("CALLBACK_SECRET_PREVIOUS")
    with pytest.raises(UsageError, match="CALLBACK_SECRET: what follows whsec_ is not base64"):
        signer_of(load_settings())


def test_a_secret_in_base64_is_as_strong_as_its_bytes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the prefix nor the encoding makes it longer or more varied."""
    monkeypatch.setenv("CALLBACK_SECRET", "whsec_" + base64.b64encode(b"fifteen bytes !").decode())
    with pytest.raises(UsageError, match="CALLBACK_SECRET: use at least 16"):
        signer_of(load_settings())
    monkeypatch.setenv("CALLBACK_SECRET", "whsec_" + base64.b64encode(b"0" * 32).decode())
    signer_of(load_settings())
    assert [record.message for record in caplog.records] == ["weak_secret"]
