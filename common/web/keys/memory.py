"""API keys in memory, for a gateway in one process and for tests."""

from common.web.keys.port import ApiKey


class MemoryApiKeys:
    """Keys in a dict."""

    def __init__(self) -> None:
        self._keys: dict[str, ApiKey] = {}

    async def add(self, key: ApiKey) -> bool:
        return self._keys.setdefault(key.id, key) == key

    async def all(self) -> dict[str, ApiKey]:
        return dict(self._keys)

    async def revoke(self, key_id: str) -> None:
        self._keys.pop(key_id, None)
