"""`smsim provider`: a stand-in for an SMS service, over HTTP, that plays a profile (docs/providers.md)."""

import asyncio
import functools
import logging
import math
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from aiohttp import web

from common.cli import Parser, run_command, stop_on_signals, warn_of_near_misses, whole
from common.errors import Unavailable, UsageError
from common.logs import configure_logs
from common.messages import E164_PATTERN, MAX_SEQ, MAX_TEXT_CHARS, Outcome
from common.settings import load_settings
from sender.providers.open_files import raise_file_limit
from sender.providers.profiles import Conditions, Profile, configured_profile

log = logging.getLogger(__name__)

DEFAULT_PORT = 8025
# What requests in hand may take once it is told to stop. Docker kills 10 s after SIGTERM.
SHUTDOWN_GRACE_S = 8.0
# Connections that may wait to be accepted: a sender opens one for each of its slots, all at once.
BACKLOG = 4096
# Sends of so many neighbouring messages are drawn at once, and kept for the next of them.
BLOCK = 256
BLOCKS_KEPT = 4096
# Which messages were accepted is one bit each, in pieces of so many messages.
PIECE = 1 << 17


class Sms(msgspec.Struct, frozen=True, gc=False):
    """The body of a request: one message, in one attempt."""

    id: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,40}\.(0|[1-9][0-9]{0,12})\Z")]
    to: Annotated[str, msgspec.Meta(pattern=rf"^{E164_PATTERN}\Z")]
    text: Annotated[str, msgspec.Meta(max_length=MAX_TEXT_CHARS)]
    attempt: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1


class Stats(msgspec.Struct):
    """What came of all requests with a body; those still in hand are in `requests` only.

    `accepted` are answered 200: `distinct` ids, and `repeated` answers for an id that was accepted before. All other
    answers are `refused`.
    """

    requests: int = 0
    accepted: int = 0
    distinct: int = 0
    repeated: int = 0
    refused: int = 0


class MockProvider:
    """Accepts and refuses messages as a profile says, and remembers which it accepted.

    A run's age counts from its first message here. With `record`, each accepted send is appended to that file, as
    `<id> <attempt>` in a line of its own, before it is answered. Raises UsageError if the file can't be opened.
    """

    def __init__(
        self,
        profile: Profile,
        seed: int,
        record: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._profile = profile
        self._seed = seed
        self._clock = clock
        self._drawn = functools.lru_cache(BLOCKS_KEPT)(self._draw)
        self._record = None if record is None else _open_record(record)
        self._decode = msgspec.json.Decoder(Sms).decode
        self._forget()

    def app(self) -> web.Application:
        """Its HTTP side."""
        app = web.Application()
        app.router.add_post("/sms", self._answer)
        app.router.add_get("/stats", self._tell)
        app.router.add_delete("/stats", self._reset)
        app.router.add_get("/health", self._be_well)
        return app

    def close(self) -> None:
        """Closes the record."""
        if self._record is not None:
            os.close(self._record)
            self._record = None

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.stats.requests += 1
        try:
            sms = self._decode(body)
            run, _, digits = sms.id.partition(".")
            seq = int(digits)
            if seq >= MAX_SEQ:
                raise ValueError(f"seq must be below {MAX_SEQ} - at `$.id`")
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            # A UnicodeError quotes the body.
            reason = "not UTF-8" if isinstance(error, UnicodeError) else str(error)
            return self._refuse(HTTPStatus.BAD_REQUEST, {"error": reason})
        now_s = self._clock()
        conditions = self._profile.at(now_s - self._began_s.setdefault(run, now_s))
        times_s, outcomes, waits_s = self._drawn(conditions, seq // BLOCK, sms.attempt)
        place = seq % BLOCK
        if times_s[place]:
            await asyncio.sleep(times_s[place])
        if outcomes[place] == Outcome.SENT:
            return self._accept(sms, run, seq)
        if outcomes[place] == Outcome.FAILED:
            return self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, {"id": sms.id, "error": "failed for good"})
        if waits_s is None or not waits_s[place]:
            return self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, {"id": sms.id, "error": "failed for now"})
        answer = self._refuse(HTTPStatus.TOO_MANY_REQUESTS, {"id": sms.id, "error": "too many"})
        answer.headers["Retry-After"] = str(math.ceil(waits_s[place]))
        return answer

    def _accept(self, sms: Sms, run: str, seq: int) -> web.Response:
        if self._record is not None:
            try:
                os.write(self._record, b"%b %d\n" % (sms.id.encode(), sms.attempt))
            except OSError as error:
                # What is not on record must not pass for accepted.
                log.error("record_failed", extra={"reason": error.strerror})
                return self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, {"id": sms.id, "error": "no record"})
        repeated = not self._is_first(run, seq)
        self.stats.accepted += 1
        self.stats.distinct += not repeated
        self.stats.repeated += repeated
        return _json(HTTPStatus.OK, {"id": sms.id, "repeated": repeated})

    def _refuse(self, status: HTTPStatus, answer: dict[str, Any]) -> web.Response:
        self.stats.refused += 1
        return _json(status, answer)

    def _is_first(self, run: str, seq: int) -> bool:
        """Whether this message is accepted for the first time; it is marked as accepted."""
        piece, place = divmod(seq, PIECE)
        bits = self._accepted.setdefault((run, piece), bytearray(PIECE // 8))
        byte, bit = place >> 3, 1 << (place & 7)
        first = not bits[byte] & bit
        bits[byte] |= bit
        return first

    def _draw(
        self, conditions: Conditions, block: int, attempt: int
    ) -> tuple[list[float], list[int], list[float] | None]:
        """How long the sends of a block of messages take, in seconds, what comes of them, and the waits asked for."""
        seqs = np.arange(block * BLOCK, (block + 1) * BLOCK, dtype=np.int64)
        plays = conditions.draw(self._seed, seqs, attempt)
        waits_s = None if plays.retry_after_s is None else plays.retry_after_s.tolist()
        return (plays.times_us / 1e6).tolist(), plays.outcomes.tolist(), waits_s

    def _forget(self) -> None:
        self.stats = Stats()
        self._accepted: dict[tuple[str, int], bytearray] = {}
        self._began_s: dict[str, float] = {}

    async def _tell(self, _: web.Request) -> web.Response:
        return _json(HTTPStatus.OK, self.stats)

    async def _reset(self, _: web.Request) -> web.Response:
        """Forgets all, the beginnings of runs too; the record stays as it is."""
        self._forget()
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def _be_well(self, _: web.Request) -> web.Response:
        return _json(HTTPStatus.OK, {"healthy": True})


def _json(status: HTTPStatus, answer: Any) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(answer), content_type="application/json")


def _open_record(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError as error:
        raise UsageError(f"--record {path}: can't be opened: {error.strerror}") from None


@asynccontextmanager
async def serving(provider: MockProvider, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """Answers there until left, and then what is in hand still; gives the port (0 asks for any free one).

    Raises Unavailable if it can't listen there.
    """
    runner = web.AppRunner(provider.app(), access_log=None, shutdown_timeout=SHUTDOWN_GRACE_S)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port, backlog=BACKLOG).start()
        except OSError as error:
            raise Unavailable(f"can't listen on {host}:{port}: {error.strerror}") from None
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
        provider.close()


def main(argv: list[str] | None = None, prog: str = "smsim provider") -> int:
    """Reads the arguments and answers until SIGTERM or Ctrl-C."""
    parser = Parser(prog, "A stand-in for an SMS service: takes messages at POST /sms and plays a profile.")
    parser.add_argument("--host", default="127.0.0.1", help="where it listens (default: 127.0.0.1)")
    parser.add_argument(
        "--port", type=whole(0, 65535), default=DEFAULT_PORT, help="(default: 8025; 0: any free one)"
    )
    parser.add_argument("--profile", help="how it behaves: a built-in name or a YAML file (PROVIDER_PROFILE)")
    parser.add_argument("--seed", type=whole(0, 2**63 - 1), help="makes it repeat exactly (SEED)")
    parser.add_argument(
        "--record", type=Path, help="appends `<id> <attempt>` of each accepted send to this file"
    )
    args = parser.parse_args(argv)

    async def run() -> int:
        settings = load_settings(provider_profile=args.profile, seed=args.seed)
        configure_logs("provider", settings.log_level, settings.log_file, sys.stderr)
        warn_of_near_misses()
        seed = secrets.randbits(63) if settings.seed is None else settings.seed
        provider = MockProvider(configured_profile(settings), seed, args.record)
        raise_file_limit()
        stop = stop_on_signals()
        async with serving(provider, args.host, args.port) as port:
            log.info("provider_listening", extra={"host": args.host, "port": port, "seed": seed})
            await stop.wait()
            log.info("provider_stopping", extra=msgspec.structs.asdict(provider.stats))
        return 0

    return run_command(prog, run)
