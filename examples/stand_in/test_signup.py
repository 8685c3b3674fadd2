"""Its tests: what does the program do when its SMS arrive, and when they don't?

Run them with `pytest examples/stand_in`. They start a stand-in of their own, unless SMS_URL names one that runs.
"""

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from .signup import sign_up

# 555-01xx belongs to nobody, whatever the area code; a number for each test keeps their messages apart.
ARRIVES, FAILS, THROTTLED = "+12025550150", "+12025550122", "+12025550129"


@pytest.fixture(scope="session")
def sms_url() -> Iterator[str]:
    """Where the stand-in listens."""
    if url := os.environ.get("SMS_URL"):
        yield url
        return
    with subprocess.Popen(["smsim", "serve", "--port", "0"], stderr=subprocess.PIPE, text=True) as stand_in:
        assert stand_in.stderr is not None
        ready = stand_in.stderr.readline()  # smsim serve: ready on http://127.0.0.1:8000/ (...)
        yield ready.split(" on ")[1].split("/ ")[0]
        stand_in.terminate()


def inbox(sms_url: str, number: str) -> Any:
    """The first message to a number, waited for as long as it may take."""
    with urllib.request.urlopen(f"{sms_url}/inbox/wait?to={number}&timeout=10") as answer:
        return json.load(answer)


def test_the_code_arrives(sms_url: str) -> None:
    """In the words that people are to read."""
    code = sign_up(sms_url, ARRIVES)
    assert inbox(sms_url, ARRIVES)["text"] == f"Your code is {code}"


def test_a_number_that_can_not_be_reached(sms_url: str) -> None:
    """The program says so."""
    assert sign_up(sms_url, FAILS) is None


def test_a_provider_that_is_busy(sms_url: str) -> None:
    """The program waits for it."""
    assert sign_up(sms_url, THROTTLED) is not None
