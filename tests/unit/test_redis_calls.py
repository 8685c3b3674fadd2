"""Asking Redis: a caller that is cancelled, or out of time, is let go whatever the client does about it."""

import asyncio

import pytest
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError, InvalidResponse, RedisError, ResponseError

from common.redis import Client
from common.redis.failures import Failure, failure_of, words_of
from common.settings import Settings


async def answered_all_the_same() -> str:
    """As the client on Python 3.11, where a cancellation comes just when the command was sent."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return "the answer"
    raise AssertionError("nothing else ends it")


async def failed_all_the_same() -> str:
    """The same, and then the connection breaks."""
    await answered_all_the_same()
    raise ConnectionError("gone")


@pytest.mark.parametrize("ask", [answered_all_the_same, failed_all_the_same])
async def test_a_cancellation_is_never_lost(ask: object) -> None:
    """Whoever cancels a task that asks can wait for its end."""
    asking = asyncio.create_task(Client(Settings()).until_answered(ask))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_deadline_is_never_lost() -> None:
    """A timeout around it is a timeout, though the answer came; what is asked next is asked as ever."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await Client(Settings()).until_answered(answered_all_the_same)

    async def answered() -> str:
        return "another"

    assert await Client(Settings()).until_answered(answered) == "another"


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", Failure.BUSY),
        ("MISCONF Errors writing to the AOF file: No space left on device", Failure.BUSY),
        ("BUSY Redis is busy running a script.", Failure.BUSY),
        ("TRYAGAIN Multiple keys request during rehashing of slot", Failure.BUSY),
        ("READONLY You can't write against a read only replica.", Failure.MOVED),
        (
            "READONLY You can't write against a read only replica. script: 5c, on @user_script:1.",
            Failure.MOVED,
        ),
        ("LOADING Redis is loading the dataset in memory", Failure.MOVED),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", Failure.MOVED),
        ("NOREPLICAS Not enough good replicas to write.", Failure.MOVED),
        ("UNBLOCKED force unblock from blocking operation, instance state changed", Failure.MOVED),
        ("CLUSTERDOWN The cluster is down", Failure.MOVED),
        ("ERR max number of clients reached", Failure.MOVED),
        ("NOAUTH Authentication required.", Failure.LOGIN),
        ("WRONGPASS invalid username-password pair or user is disabled.", Failure.LOGIN),
        ("ERR wrong number of arguments for 'auth' command", Failure.LOGIN),
        ("NOPERM this user has no permissions to run the 'set' command", Failure.LASTING),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", Failure.LASTING),
        ("ERR wrong number of arguments for 'set' command", Failure.LASTING),
        ("ERR unknown command 'WAITAOF', with args beginning with: '1' ", Failure.LASTING),
        ("ERR DB index is out of range", Failure.LASTING),
        ("MOVED 3999 127.0.0.1:6381", Failure.LASTING),
        ("CROSSSLOT Keys in request don't hash to the same slot", Failure.LASTING),
    ],
)
def test_the_kind_of_a_refusal(answer: str, failure: Failure) -> None:
    """What passes is repeated; what follows from the rest is one line with the server's own words."""
    error = BaseParser.parse_error(answer)  # type: ignore[no-untyped-call]
    assert failure_of(error) is failure
    if failure is Failure.LASTING:
        assert words_of(error) == answer


def test_words_leave_out_what_the_call_was_about() -> None:
    """The client puts the command before the words of an error in a pipeline, with numbers and texts."""
    words = "WRONGTYPE it's of another kind"
    told = f"Command # 1 (HSET key 0 secret text) of pipeline caused error: {(words,)}"
    assert words_of(ResponseError(told)) == words


def test_a_bug_is_no_failure_of_redis() -> None:
    """It shows itself."""
    assert failure_of(RedisError("a bug")) is None


def test_what_is_not_the_protocol_is_no_bug() -> None:
    """REDIS_PORT leads to another server, which may change; or an answer lost a byte, and a new connection helps."""
    assert failure_of(InvalidResponse('Protocol error, got "A" as reply type byte')) is Failure.MOVED
