"""What the ledger keeps of how a gateway's run was made."""

import msgspec

from common.messages import Lane
from common.publishing.recipes import BATCHES, SINGLES, Recipe


def recipe_of_singles(lane: Lane, queue: str) -> str:
    """Of a run for messages that come one by one; nobody knows how many."""
    return _recipe(Recipe(source=SINGLES, count=0, batch_size=1, lane=lane, queue=queue))


def recipe_of_batch(messages: int, lane: Lane, queue: str) -> str:
    """Of a run that is accepted whole."""
    return _recipe(Recipe(source=BATCHES, count=messages, batch_size=1, lane=lane, queue=queue))


def _recipe(recipe: Recipe) -> str:
    return msgspec.json.encode(recipe).decode()
