"""Responses as the bytes of HTTP/1.1."""

from http import HTTPStatus

from starlette.responses import Response


def status_line(status: int) -> bytes:
    """`HTTP/1.1 202 Accepted`, with its line end."""
    return b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())


def encoded(response: Response, added_fields: bytes = b"") -> bytes:
    """What follows the status line and the date: header fields, those added after them, and the body."""
    fields = b"".join([b"%b: %b\r\n" % field for field in response.raw_headers])
    return b"%b%b\r\n%b" % (fields, added_fields, bytes(response.body))
