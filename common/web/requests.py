"""Request heads and bodies as bytes: parsed by httptools, one request at a time, within limits."""

from typing import Any

import httptools

from common.web.limits import Limits
from common.web.problems import Problem

Fields = dict[bytes, bytes]

HEAD_END = b"\r\n\r\n"


class BadRequest(Exception):
    """The client's bytes can't be served; `problem` is the answer, and the connection ends with it."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.problem = Problem(status, detail)


class Head:
    """The head of one request.

    Attributes:
        method: `POST`.
        target: Path and query as the request line has them.
        fields: Header fields; names in lower case. Of repeated ones, the last.
        repeats: Some field is repeated.
        keep_alive: The client wants to send another request on this connection.
        upgrade: It asks for another protocol.
        size: Bytes of the head.
        length: Bytes of the body; None: it is chunked.
    """

    __slots__ = ("fields", "keep_alive", "length", "method", "repeats", "size", "target", "upgrade")

    fields: Fields
    keep_alive: bool
    length: int | None
    method: bytes
    repeats: bool
    size: int
    target: bytes
    upgrade: bool

    @property
    def has_body(self) -> bool:
        """Whether a body follows."""
        return self.length != 0


class RequestParser:
    """Parses the requests of one connection: `read_head`, then `read_body` until the body has ended."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._parser: Any = httptools.HttpRequestParser(self)
        self._fields: list[tuple[bytes, bytes]] = []
        self._target = b""
        self._in_body = False
        self._bytes_without_data = 0
        self.complete = False

    def read_head(self, data: bytes) -> Head:
        """The head in `data`, which ends with it. Raises BadRequest."""
        head = Head()
        head.upgrade = self._feed(data)
        head.fields = dict(self._fields)
        head.repeats = len(head.fields) < len(self._fields)
        head.method = self._parser.get_method()
        head.target = self._target
        head.keep_alive = self._parser.should_keep_alive()
        head.size = len(data)
        chunked = b"transfer-encoding" in head.fields
        head.length = None if chunked else int(head.fields.get(b"content-length", b"0"))
        if not self._fields and not head.target:
            raise not_http()
        if not head.has_body and not self.complete:  # the preface of HTTP/2
            raise not_http()
        if head.upgrade:
            self._check_fields()
            self._parser = httptools.HttpRequestParser(self)  # the old one waits for the other protocol
        return head

    def read_body(self, data: bytes) -> bool:
        """Whether the body ends in `data`. Raises BadRequest, also where more than this request is in it."""
        self._bytes_without_data += len(data)
        self._in_body = True
        self._feed(data)
        self._in_body = False
        if self._bytes_without_data > self._limits.head_bytes:
            raise too_large(self._limits)
        return self.complete

    def close(self) -> None:
        """Nothing more will be parsed: breaks the circle of references."""
        self._parser = None

    def _check_fields(self) -> None:
        """Raises BadRequest for a field that is too long for a WebSocket's request."""
        most_bytes = self._limits.upgrade_field_bytes
        if any(len(name) + len(value) > most_bytes for name, value in self._fields):
            raise BadRequest(
                431, f"a header field of a WebSocket may have {most_bytes} bytes: send less in it"
            )

    def _feed(self, data: bytes) -> bool:
        """True if the request asks for another protocol."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return True
        except httptools.HttpParserError as error:
            cause = error.__context__
            raise cause if isinstance(cause, BadRequest) else not_http() from None
        return False

    # Called by httptools

    def on_message_begin(self) -> None:
        if self._in_body:
            raise BadRequest(400, "a request must not follow a chunked one before that is answered")
        self._fields = []
        self._target = b""
        self._bytes_without_data = 0
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self._target += url
        if len(self._target) > self._limits.target_bytes:
            raise BadRequest(
                414, f"path and query are over {self._limits.target_bytes} bytes: send shorter ones"
            )

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name.lower(), value))
        if len(self._fields) > self._limits.head_fields:
            raise BadRequest(
                431, f"a request may have {self._limits.head_fields} header fields: send fewer of them"
            )

    def on_body(self, _: bytes) -> None:
        self._bytes_without_data = 0

    def on_message_complete(self) -> None:
        self.complete = True


def check_target(head: Head) -> None:
    """Raises BadRequest for a target that no application is asked for."""
    try:
        if head.method == b"CONNECT" or not head.target.isascii():
            raise not_http()
        httptools.parse_url(head.target)
    except httptools.HttpParserInvalidURLError:
        raise not_http() from None


def not_http() -> BadRequest:
    """For bytes that can't be parsed as HTTP/1.1."""
    return BadRequest(400, "this is no HTTP/1.1 request: send one")


def too_large(limits: Limits) -> BadRequest:
    """A head, or trailers, over the limit."""
    return BadRequest(431, f"URL and headers are over {limits.head_bytes // 1024} KiB: send less in them")
