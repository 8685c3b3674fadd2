"""The Lua scripts of the ledger in Redis, and their calls, which are repeated until Redis answers."""

from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

from redis.asyncio.client import Pipeline
from redis.commands.core import AsyncScript

from common.counters import TALLIED
from common.keys import Keys
from common.ledger.port import TIMING, Timing
from common.redis import Client


class RedisScripts:
    """Calls the scripts in lua/. `run_ttl_s` is how long a settled run is kept, in seconds."""

    def __init__(self, client: Client, run_ttl_s: float = 7 * 86_400, timing: Timing = TIMING) -> None:
        self._redis = client
        self._names = client.names
        self._timing = timing
        self._ttl_s = max(1, int(run_ttl_s))
        self._scripts: dict[str, AsyncScript] = {
            name: client.register_script(text) for name, text in script_texts(client.names).items()
        }

    async def _read(self, add: Callable[[Pipeline], None]) -> list[Any]:
        """The answers to the commands that `add` adds to a pipeline, which is no transaction."""

        async def read() -> list[Any]:
            pipe = self._redis.pipeline(transaction=False)
            add(pipe)
            return await pipe.execute()

        answers: list[Any] = await self._redis.until_answered(read)
        return answers

    async def _call(self, script: str, script_keys: Sequence[str], args: Sequence[Any]) -> Any:
        return (await self._call_noting_loss(script, script_keys, lambda _: args))[0]

    async def _call_noting_loss(
        self, script: str, script_keys: Sequence[str], args: Callable[[bool], Sequence[Any]]
    ) -> tuple[Any, bool]:
        """The script's answer, and whether an earlier attempt may have taken effect without an answer."""
        tries = 0

        async def once() -> Any:
            nonlocal tries
            tries += 1
            return await self._scripts[script](keys=script_keys, args=args(tries > 1))

        return await self._redis.until_answered(once), tries > 1


def script_texts(names: Keys) -> dict[str, str]:
    """Each script as it is sent to Redis."""
    lua = files("common.ledger.redis") / "lua"
    texts = {file.name.removesuffix(".lua"): file.read_text() for file in lua.iterdir()}
    return {name: with_prelude(text, names) for name, text in texts.items() if name != "prelude"}


def with_prelude(script: str, names: Keys) -> str:
    """A script that changes runs, with the names from Python and the functions of lua/prelude.lua before it."""
    head = f"local RUN_KEY, OPEN_RUNS = '{names.run('')}', '{names.open_runs}'\n"
    head += f"local COUNTERS = {{{', '.join(map(repr, TALLIED))}}}\n"
    return head + (files("common.ledger.redis") / "lua" / "prelude.lua").read_text() + script


def unix_us(time: tuple[int, int]) -> int:
    """The answer of Redis's TIME, seconds and microseconds, as Unix time in microseconds."""
    seconds, micros = time
    return seconds * 1_000_000 + micros
