"""Makes a source again from its recipe."""

from pathlib import Path

from common.contacts.rows import Options
from common.contacts.source import ContactsSource
from common.errors import UsageError
from common.publishing.random import RandomSource
from common.publishing.recipes import Recipe, Source
from common.sms.numbers import NumberRules


def source_of(recipe: Recipe) -> Source:
    """The source of a recipe. Raises UsageError if its messages cannot be made again."""
    if recipe.source == RandomSource.NAME and recipe.seed is not None:
        return RandomSource(recipe.count, recipe.seed)
    if recipe.source == ContactsSource.NAME and recipe.path is not None:
        return _contacts(recipe, Path(recipe.path))
    if recipe.source == ContactsSource.NAME and recipe.sha256 is not None:
        raise UsageError("this run's contacts came from a pipe, so its messages can't be made again")
    raise UsageError(
        f"this run's messages can't be made again: they came from {recipe.source or 'elsewhere'!r}"
    )


def _contacts(recipe: Recipe, path: Path) -> ContactsSource:
    options = Options(
        text=recipe.text,
        number_column=recipe.number_column,
        delimiter=recipe.delimiter,
        numbers=NumberRules(country=recipe.country, reserved=recipe.reserved_numbers),
    )
    source = ContactsSource.open(path, options, once=recipe.once)
    if source.sha256 != recipe.sha256:
        raise UsageError(f"{path} is not the file that the run began with: restore that file to resume")
    if source.count != recipe.count:
        raise UsageError(
            f"{path} makes {source.count} messages now, and made {recipe.count} when the run began:"
            " resume it with the version that began it"
        )
    return source
