"""API keys in memory, for a gateway in one process and for tests."""

from common.web.keys.port import ApiKey


class MemoryApiKeys:
    """Keys in a dict."""

    def __init__(self) -> None:
        self._keys: dict[str, ApiKey] = {}
        self._uses: dict[str, int] = {}

    async def add(self, key: ApiKey) -> bool:
        return self._keys.setdefault(key.id, key) == key

    async def all(self) -> dict[str, ApiKey]:
        return dict(self._keys)

    async def revoke(self, key_id: str) -> None:
        self._keys.pop(key_id, None)
        self._uses.pop(key_id, None)

    async def note_use(self, key_id: str, at_us: int) -> None:
        self._uses[key_id] = at_us

    async def last_uses(self) -> dict[str, int]:
        return dict(self._uses)
