"""Reads HTTP responses for providers: the outcome that a status stands for, and the Retry-After header."""

import email.utils
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus

from common.messages import Outcome
from sender.providers.port import Result

RETRIED = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})


def result_of(status: int, headers: Mapping[str, str]) -> Result:
    """The result of a send by the status of its response: 2xx is sent; 408, 429 and 5xx are retried; others fail."""
    reason = f"HTTP {status}"
    if 200 <= status < 300:
        return Result(Outcome.SENT)
    if status in RETRIED or 500 <= status < 600:
        wait_s = retry_after_s(headers.get("Retry-After", ""))
        return Result(Outcome.RETRY, wait_s, reason=reason)
    return Result(Outcome.FAILED, reason=reason)


def retry_after_s(header: str) -> float:
    """The wait that a Retry-After header asks for, as a number or a date, in seconds; 0 if it is neither."""
    try:
        wait_s = float(header) if header.strip().isdigit() else _seconds_until(header)
    except (ValueError, OverflowError):
        return 0.0
    return max(0.0, wait_s)


def _seconds_until(date: str) -> float:
    when = email.utils.parsedate_to_datetime(date)
    if when.tzinfo is None:  # "-0000", or no zone: HTTP dates are in UTC
        when = when.replace(tzinfo=UTC)
    return (when - datetime.now(UTC)).total_seconds()
