"""A request's hold on its Idempotency-Key, for whoever carries the request out."""

from gateway.idempotency.port import Idempotency


class Hold:
    """One key, taken by one request. Each call may come after the request has ended, or another has taken the key."""

    def __init__(self, record: Idempotency, caller: str, key: str, token: str, lease_s: float) -> None:
        self._record = record
        self._mine = (caller, key, token)
        self._lease_s = lease_s
        self._planned = False

    async def plan(self, answer: bytes) -> None:
        """What will be answered. To be called before anything is published."""
        self._planned = True
        await self._record.plan(*self._mine, answer)

    async def void(self) -> bool:
        """To be called before what was planned is withdrawn: False if that is another's by now, to be left alone."""
        return await self._record.void(*self._mine, self._lease_s)

    async def done(self, answer: bytes) -> None:
        """The answer stands."""
        await self._record.done(*self._mine, answer)

    async def release(self) -> None:
        """Nothing came of it, and nothing will: the key is free."""
        await self._record.release(*self._mine)

    async def leave(self) -> None:
        """The request has failed: its plan is left to the next one, at once. With no plan the key is free."""
        if self._planned:
            await self._record.pass_on(*self._mine)
        else:
            await self.release()
