"""Idempotency keys in memory, for one process."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from gateway.acceptance.port import KEY_KEPT_S, Exceptional, IdempotencyKey, Verdict


@dataclass(frozen=True, slots=True)
class _Binding:
    """The binding of a key.

    Attributes:
        fingerprint: That of the request that it came with.
        id: The message id, or the run.
        until_s: When the key is free again.
    """

    fingerprint: str
    id: str
    until_s: float


class MemoryKeys:
    """At most `most` keys, the oldest forgotten first. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float], most: int = 100_000) -> None:
        self._clock = clock
        self._most = most
        self._bindings: OrderedDict[tuple[str, str], _Binding] = OrderedDict()

    def bound(self, key: IdempotencyKey | None) -> Exceptional | None:
        """The refusal of a key that is bound already; None if it is free."""
        binding = self._bindings.get((key.caller, key.digest)) if key else None
        if key is None or binding is None or binding.until_s <= self._clock():
            return None
        if binding.fingerprint == key.fingerprint:
            return Exceptional(Verdict.REPLAYED, binding.id)
        return Exceptional(Verdict.CONFLICT)

    def bind(self, key: IdempotencyKey | None, id: str) -> None:
        """Binds a key that is free."""
        if key is None:
            return
        name = (key.caller, key.digest)
        self._bindings[name] = _Binding(key.fingerprint, id, self._clock() + KEY_KEPT_S)
        self._bindings.move_to_end(name)
        while len(self._bindings) > self._most:
            self._bindings.popitem(last=False)
