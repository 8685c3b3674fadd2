"""A client that does not give up: it posts each message with a key of its own until that is accepted."""

import asyncio

import aiohttp


async def post_until_accepted(http: aiohttp.ClientSession, k: int) -> str:
    """Posts message k, with a key of its own, as often as it takes; gives its id."""
    body = {"number": "+541166587382", "text": f"message {k}"}
    while True:
        try:
            async with http.post("/sms", json=body, headers={"Idempotency-Key": f"message-{k}"}) as answer:
                if answer.status == 202:
                    return str((await answer.json())["uuid"])
                assert answer.status in (429, 503), await answer.text()
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            pass
        await asyncio.sleep(0.05)  # a client's pause before it tries again


async def post_all(http: aiohttp.ClientSession, messages: int, workers: int, uuids: dict[int, str]) -> None:
    """Posts so many messages, some at a time; `uuids` has the ids of those accepted so far."""
    waiting = iter(range(messages))

    async def work() -> None:
        for k in waiting:
            uuids[k] = await post_until_accepted(http, k)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(workers):
            tasks.create_task(work())
