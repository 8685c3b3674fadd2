"""The code of docs/callbacks.md, which receivers copy, and the sample of docs/stand-in.md."""

import base64
import hmac
import re
from typing import Any

import pytest

from tests.e2e.processes import ROOT


@pytest.fixture
def documented(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    found = re.search(r"```python\n(.*?)```", (ROOT / "docs/callbacks.md").read_text(), re.DOTALL)
    assert found
    names: dict[str, Any] = {}
    exec(found[1], names)
    monkeypatch.setattr(names["time"], "time", lambda: 1_795_286_345.0)
    return names


def test_the_sample_is_what_it_says(documented: dict[str, Any]) -> None:
    """Headers and body of docs/stand-in.md belong together. Another id, time, body or secret is refused."""
    sample = re.search(
        r"^(\S+) (\d+) (v1,\S+) (\{.*\})$", (ROOT / "docs/stand-in.md").read_text(), re.MULTILINE
    )
    assert sample
    headers = {"webhook-id": sample[1], "webhook-timestamp": sample[2], "webhook-signature": sample[3]}
    body, secret = sample[4].encode(), "a-secret-of-mine"
    assert documented["is_ours"](headers, body, secret)
    as_libraries_take_it = "whsec_" + base64.b64encode(secret.encode()).decode()
    assert documented["is_ours"](headers, body, as_libraries_take_it)
    while_it_is_changed = headers | {"webhook-signature": f"v1,AAAA {sample[3]}"}
    assert documented["is_ours"](while_it_is_changed, body, secret)
    assert not documented["is_ours"](headers, body + b" ", secret)
    assert not documented["is_ours"](headers, body, "another")
    for name, other in (("webhook-id", "x"), ("webhook-timestamp", "1795286345")):
        assert not documented["is_ours"](headers | {name: other}, body, secret)


@pytest.mark.parametrize("at", ["", "abc", "1e9", "²", "-1", "9" * 5000])
def test_a_time_that_is_none_is_refused(documented: dict[str, Any], at: str) -> None:
    """With a good signature, too: False, and no exception."""
    digest = hmac.digest(b"secret", f"id.{at}.body".encode(), "sha256")
    signature = "v1," + base64.b64encode(digest).decode()
    headers = {"webhook-id": "id", "webhook-timestamp": at, "webhook-signature": signature}
    assert documented["is_ours"](headers, b"body", "secret") is False
