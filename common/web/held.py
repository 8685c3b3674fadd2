"""The bytes that a server holds for its clients: unread answers, and requests that wait."""

from collections.abc import Callable
from typing import Generic, TypeVar

Client = TypeVar("Client")


class HeldBytes(Generic[Client]):
    """Counts the bytes that are held for each client, and drops clients while they are too many.

    The bounds of each connection do not bound the memory: thousands of connections may reach them together.

    Attributes:
        total: Bytes that are held for all clients.
    """

    def __init__(self, most_bytes: int, drop: Callable[[Client], None]) -> None:
        self.total = 0
        self._most_bytes = most_bytes
        self._drop = drop
        self._by_client: dict[Client, int] = {}  # the one that something is held for longest comes first

    def note(self, client: Client, held: int) -> None:
        """Notes the bytes held for a client. Over the bound, drops the clients for which bytes are held longest."""
        self._set(client, held)
        while self.total > self._most_bytes:
            longest = next(iter(self._by_client))
            self._set(longest, 0)
            self._drop(longest)

    def _set(self, client: Client, held: int) -> None:
        self.total += held - self._by_client.get(client, 0)
        if held:
            self._by_client[client] = held
        else:
            self._by_client.pop(client, None)
