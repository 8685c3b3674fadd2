"""What the sides of the ledger in Redis share: the client, its scripts, and calls that are repeated until answered."""

from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from common import keys
from common.counters import TALLIED
from common.errors import UnknownRun
from common.redis import retry_until_answered

_SCRIPTS = (
    *("begin", "resume", "leave", "announce", "confirm", "cut", "forget", "runs", "newest"),
    *("claim", "settle", "release", "withdraw", "mark", "heartbeat"),
)


class RedisCalls:
    """Calls of the scripts in lua/. `run_ttl_s` is how long a settled run is kept."""

    def __init__(self, client: Redis, run_ttl_s: float = 7 * 86_400) -> None:
        self._redis = client
        self._ttl_s = max(1, int(run_ttl_s))
        self._scripts: dict[str, AsyncScript] = {
            name: client.register_script(text) for name, text in script_texts().items()
        }

    async def _call(self, script: str, script_keys: Sequence[str], args: Sequence[Any]) -> Any:
        return (await self._call_noting_loss(script, script_keys, lambda _: args))[0]

    async def _call_noting_loss(
        self, script: str, script_keys: Sequence[str], args: Callable[[bool], Sequence[Any]]
    ) -> tuple[Any, bool]:
        """The script's answer, and whether an earlier try may have been carried out without one."""
        tries = 0

        async def once() -> Any:
            nonlocal tries
            tries += 1
            return await self._scripts[script](keys=script_keys, args=args(tries > 1))

        return await retry_until_answered(once), tries > 1


def script_texts() -> dict[str, str]:
    """Each script as Redis gets it, with what is put before all of them."""
    lua = files("common.ledger") / "lua"
    return {name: with_prelude((lua / f"{name}.lua").read_text()) for name in _SCRIPTS}


def with_prelude(script: str) -> str:
    """A script that changes runs, with the functions of lua/prelude.lua before it."""
    names = f"local RUN_KEY, OPEN_RUNS = '{keys.run('')}', '{keys.OPEN_RUNS}'\n"
    names += f"local COUNTERS = {{{', '.join(map(repr, TALLIED))}}}\n"
    return names + (files("common.ledger") / "lua" / "prelude.lua").read_text() + script


def unknown(run: str) -> UnknownRun:
    """The error for a run that is not there."""
    return UnknownRun(f"no run {run} in the ledger")
