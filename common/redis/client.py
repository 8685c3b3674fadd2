"""The client of Redis: repeats calls until Redis answers, and waits for replicas if the settings ask for it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import ConnectionError, NoScriptError, RedisError

from common.errors import Refused, Unavailable
from common.keys import Keys
from common.redis.connections import Endpoint, connection_pool
from common.redis.failures import Failure, failure_of, words_of
from common.redis.timing import TIMING, RedisTiming
from common.settings import Settings

log = logging.getLogger(__name__)


class Client(Redis):
    """A client with its pool of connections.

    A call goes through `until_answered` or `once`, which decide what follows from a failure.

    Attributes:
        endpoint: Where Redis is.
        names: The names of keys and channels.
        last_outage: Why the last call that may be repeated failed.
    """

    def __init__(self, settings: Settings, timing: RedisTiming = TIMING) -> None:
        self.endpoint = Endpoint(settings, timing)
        self.names = Keys(settings.stack, settings.redis_db)
        self.last_outage = ""
        super().__init__(connection_pool=connection_pool(settings, self.endpoint, timing))
        self.auto_close_connection_pool = True
        self._timing = timing
        self._replicas = settings.redis_wait_replicas
        self._wait = _wait_command(settings, timing)
        self._has_answered = False
        self._login_refused_s: float | None = None
        self._log_again_s: float | None = None

    @property
    def is_locked_out(self) -> bool:
        """Whether Redis has refused the login for so long that only a restart with another one helps."""
        if self._login_refused_s is None:
            return False
        patience_s = self._timing.login_s if self._has_answered else 0
        return time.monotonic() - self._login_refused_s >= patience_s

    async def until_answered(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Repeats a call, with backoff, until Redis answers. Every call of a store may be repeated. Raises Refused."""
        backoff = self._timing.backoff()
        while True:
            try:
                answer = await self.once(ask)
            except Unavailable as error:
                self._log_outage(error)
                await backoff.pause()
            else:
                if backoff.begun and self._log_again_s is not None:
                    self._log_again_s = None
                    log.info("ledger_answers_again")
                return answer

    async def once(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Makes a call once. Raises Unavailable if another attempt may succeed, else Refused."""
        epoch = self.endpoint.epoch
        try:
            answer = await cancellable(ask)
        except (RedisError, RuntimeError) as error:
            raise self._explained(error, epoch) from None
        self._has_answered, self._login_refused_s = True, None
        return answer

    async def write(self, *command: Any) -> Any:
        """Carries a command out, and waits until as many replicas have it as the settings ask for.

        The wait goes out together with the command, on the same connection. Too few replicas are a lost answer: the
        caller repeats the command, which may have been carried out.
        """
        if not self._wait:
            return await self.execute_command(*command)  # type: ignore[no-untyped-call]
        pipe = self.pipeline(transaction=False)
        pipe.execute_command(*command)
        pipe.execute_command(*self._wait)
        answer, have_it = await pipe.execute(raise_on_error=False)
        for failed in (answer, have_it):
            if isinstance(failed, Exception):
                raise failed
        self._check_replicas(have_it)
        return answer

    async def check_replicas(self) -> None:
        """Raises Refused if Redis does not know the command that waits for replicas."""
        if self._wait:
            await self.once(lambda: self.execute_command(*self._wait))  # type: ignore[no-untyped-call]

    def register_script(self, script: Any) -> AsyncScript:  # type: ignore[override]
        """A script whose calls wait for replicas, as `write` does."""
        return _Script(self, script)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Closes all connections."""
        await super().aclose(close_connection_pool)
        await self.endpoint.close()

    def _check_replicas(self, have_it: Any) -> None:
        replicas = have_it[1] if isinstance(have_it, list) else have_it
        if replicas < self._replicas:
            raise ConnectionError(f"{replicas} of {self._replicas} replicas have the write")

    def _explained(self, error: Exception, epoch: int) -> Exception:
        """The error to raise for a failed call that began in this epoch."""
        words = words_of(error)
        match failure_of(error):
            case None:
                return error
            case Failure.UNTRUSTED:
                return Refused("Redis has a certificate that is not trusted: check REDIS_CA_FILE")
            case Failure.LASTING:
                return Refused(f"Redis refuses: {words}")
            case Failure.BUSY:
                return Unavailable(words)
            case Failure.LOGIN:
                self._login_refused_s = self._login_refused_s or time.monotonic()
                if self.is_locked_out:
                    self._replace_connections(epoch)
                    return Refused(f"Redis refuses: {words}: check REDIS_PASSWORD and REDIS_USER")
        self._replace_connections(epoch)
        return Unavailable(words)

    def _replace_connections(self, epoch: int) -> None:
        """Replaces all connections, unless that was done since the failed call began."""
        if self.endpoint.epoch == epoch:
            self.endpoint.epoch += 1

    def _log_outage(self, error: Exception) -> None:
        """Logs an outage once for all calls, and again from time to time."""
        self.last_outage = str(error)
        now_s = time.monotonic()
        if self._log_again_s is None or now_s >= self._log_again_s:
            self._log_again_s = now_s + self._timing.log_every_s
            log.warning("ledger_unreachable", extra={"reason": str(error)})


class _Script(AsyncScript):
    """A Lua script; Redis is told its text when it does not know it."""

    registered_client: Client

    async def __call__(
        self, keys: Sequence[Any] | None = None, args: Iterable[Any] | None = None, client: Any = None
    ) -> Any:
        names = keys or []
        call = ("EVALSHA", self.sha, len(names), *names, *(args or []))
        try:
            return await self.registered_client.write(*call)
        except NoScriptError:
            await self.registered_client.script_load(self.script)
            return await self.registered_client.write(*call)


async def cancellable(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Makes a call once. The client sends within `asyncio.wait_for`, which before Python 3.12 loses a cancellation that
    arrives as it ends (python/cpython#86296); the canceller would wait forever.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    if before:
        # The handler of a signal may have cancelled this task while it ran: that arrives here, and not in `ask`.
        await asyncio.sleep(0)
    try:
        return await ask()
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError


def _wait_command(settings: Settings, timing: RedisTiming) -> tuple[Any, ...]:
    """The command that waits for replicas; empty without any."""
    replicas, within_ms = settings.redis_wait_replicas, int(timing.replicas_s * 1000)
    if not replicas:
        return ()
    if settings.redis_wait_aof:
        return ("WAITAOF", 1, replicas, within_ms)
    return ("WAIT", replicas, within_ms)
