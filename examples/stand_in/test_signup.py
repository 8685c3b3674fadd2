"""Tests of the program: its SMS arrive, fail, or are delayed.

Run them with `pytest examples/stand_in`. They start their own stand-in, unless SMS_URL names a running one.
"""

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from .signup import sign_up

# 555-01xx belongs to nobody, in any area code. Each test uses its own number.
ARRIVES, FAILS, THROTTLED = "+12025550150", "+12025550122", "+12025550129"


@pytest.fixture(scope="session")
def sms_url() -> Iterator[str]:
    """The address of the stand-in."""
    if url := os.environ.get("SMS_URL"):
        yield url
        return
    with subprocess.Popen(["smsim", "serve", "--port", "0"], stderr=subprocess.PIPE, text=True) as stand_in:
        assert stand_in.stderr is not None
        ready = stand_in.stderr.readline()  # smsim serve: ready on http://127.0.0.1:8000/ (...)
        yield ready.split(" on ")[1].split("/ ")[0]
        stand_in.terminate()


def inbox(sms_url: str, number: str) -> Any:
    """Waits for the first message to a number."""
    with urllib.request.urlopen(f"{sms_url}/inbox/wait?to={number}&timeout=10") as answer:
        return json.load(answer)


def test_the_code_arrives(sms_url: str) -> None:
    """The inbox has the text with the code."""
    code = sign_up(sms_url, ARRIVES)
    assert inbox(sms_url, ARRIVES)["text"] == f"Your code is {code}"


def test_a_number_that_cannot_be_reached(sms_url: str) -> None:
    """The program returns None."""
    assert sign_up(sms_url, FAILS) is None


def test_a_busy_provider(sms_url: str) -> None:
    """The program waits until the SMS is sent."""
    assert sign_up(sms_url, THROTTLED) is not None
