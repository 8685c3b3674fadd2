"""The code of docs/callbacks.md, which receivers copy, and the sample of docs/stand-in.md."""

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
    """Header and body of docs/stand-in.md belong together; another body, or another secret, is refused."""
    sample = re.search(r"^(t=\d+,v1=\w+) (\{.*\})$", (ROOT / "docs/stand-in.md").read_text(), re.MULTILINE)
    assert sample
    header, body, secret = sample[1], sample[2].encode(), "a-secret-of-mine"
    assert documented["is_ours"](header, body, secret)
    assert not documented["is_ours"](header, body + b" ", secret)
    assert not documented["is_ours"](header, body, "another")


@pytest.mark.parametrize("at", ["", "abc", "1e9", "²", "-1", "9" * 5000])
def test_a_time_that_is_none_is_refused(documented: dict[str, Any], at: str) -> None:
    """With a good signature, too: False, and no exception."""
    signature = documented["hmac"].new(b"secret", f"{at}.body".encode(), "sha256").hexdigest()
    assert documented["is_ours"](f"t={at},v1={signature}", b"body", "secret") is False
