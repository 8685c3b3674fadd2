"""Secrets that operators choose: refuses short ones, and warns of those that look as if they could be guessed."""

import logging

from common.errors import UsageError

log = logging.getLogger(__name__)

SHORTEST = 16
# 16 random hexadecimal digits have fewer different ones about once in 30,000 times.
FEWEST_DIFFERENT = 6


def check_secret(setting: str, secret: str | bytes) -> None:
    """Raises UsageError for a secret that is too short, and warns of one of few different characters.

    One that was written in base64 is checked as the bytes that it stands for.
    """
    if len(secret) < SHORTEST:
        raise UsageError(
            f"{setting}: use at least {SHORTEST} characters (e.g. what openssl rand -hex 32 prints)"
        )
    if (different := len(set(secret))) < FEWEST_DIFFERENT:
        log.warning("weak_secret", extra={"setting": setting, "different_characters": different})
