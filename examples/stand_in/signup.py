"""The program: signs people up and sends each of them a code."""

import json
import secrets
import time
import urllib.request
from typing import Any


def sign_up(sms_url: str, number: str) -> str | None:
    """Sends a new code to a number. Returns the code, or None if the SMS failed."""
    code = f"{secrets.randbelow(1_000_000):06}"
    message = _ask(f"{sms_url}/sms", {"number": number, "text": f"Your code is {code}"})
    while message["status"] not in ("sent", "failed"):
        time.sleep(0.05)
        message = _ask(f"{sms_url}/sms/{message['uuid']}")
    return code if message["status"] == "sent" else None


def _ask(url: str, body: Any = None) -> Any:
    """Requests a URL, with POST if there is a body, and returns the JSON of the answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)
