"""The recipes of a gateway's runs, for the ledger."""

import msgspec

from common.messages import Lane
from common.publishing.recipes import BATCHES, SINGLES, Recipe


def recipe_of_singles(lane: Lane, queue: str) -> str:
    """The recipe of a run for single messages, whose number is not known."""
    return _recipe(Recipe(source=SINGLES, count=0, batch_size=1, lane=lane, queue=queue))


def recipe_of_batch(messages: int, lane: Lane, queue: str) -> str:
    """The recipe of a run that is accepted whole."""
    return _recipe(Recipe(source=BATCHES, count=messages, batch_size=1, lane=lane, queue=queue))


def _recipe(recipe: Recipe) -> str:
    return msgspec.json.encode(recipe).decode()
