"""The recipes of a gateway's runs, for the ledger."""

from common.messages import Lane
from common.publishing.recipes import BATCHES, SINGLES, Recipe, recipe_text
from gateway.acceptance.port import NOBODY, Owner


def recipe_of_singles(lane: Lane, queue: str, owner: Owner = NOBODY) -> str:
    """The recipe of a run for single messages, whose number is not known."""
    return _recipe(SINGLES, 0, lane=lane, queue=queue, owner=owner)


def recipe_of_batch(messages: int, lane: Lane, queue: str, *, owner: Owner = NOBODY) -> str:
    """The recipe of a run that is accepted whole."""
    return _recipe(BATCHES, messages, lane=lane, queue=queue, owner=owner)


def _recipe(source: str, count: int, *, lane: Lane, queue: str, owner: Owner) -> str:
    recipe = Recipe(
        source=source,
        count=count,
        batch_size=1,
        lane=lane,
        queue=queue,
        owner=owner.id,
        simulated=owner.simulated,
    )
    return recipe_text(recipe)
