"""Makes a source again from its recipe."""

from pathlib import Path

from common.contacts.files import ContactsSource
from common.errors import UsageError
from common.publishing.random import RandomSource
from common.publishing.recipes import Recipe, Source


def source_of(recipe: Recipe) -> Source:
    """The source of a recipe. Raises UsageError if its messages cannot be made again."""
    if recipe.source == RandomSource.NAME and recipe.seed is not None:
        return RandomSource(recipe.count, recipe.seed)
    if recipe.source == ContactsSource.NAME and recipe.path is not None:
        source, _ = ContactsSource.open(Path(recipe.path), recipe.text)
        if source.sha256 != recipe.sha256:
            raise UsageError(
                f"{recipe.path} is not the file that the run began with: restore that file to resume"
            )
        return source
    raise UsageError(
        f"this run's messages can't be made again: they came from {recipe.source or 'elsewhere'!r}"
    )
