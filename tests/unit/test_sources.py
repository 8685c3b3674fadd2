"""common/publishing/sources.py: a source is made again from its recipe, or refused."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.contacts.rows import Options
from common.contacts.source import ContactsSource
from common.errors import UsageError
from common.messages import Lane
from common.publishing.random import RandomSource
from common.publishing.recipes import Recipe, Source, recipe_of
from common.publishing.sources import source_of
from common.sms.numbers import NumberRules


def kept(source: Source, batch_size: int = 10, lane: Lane = Lane.BULK) -> str:
    """A source's recipe as the ledger keeps it."""
    return msgspec.json.encode(source.recipe(batch_size, lane)).decode()


@pytest.fixture
def contacts(tmp_path: Path) -> Path:
    path = tmp_path / "contacts.csv"
    path.write_text("number,name,text\n+358401234567,Ann,a\n12,Bob,b\n+358401234568,Cid,c\n")
    return path


@given(st.integers(1, 10_000), st.sampled_from(Lane), st.integers(0, 2**63 - 1))
def test_a_recipe_keeps_how_the_run_is_published(batch_size: int, lane: Lane, seed: int) -> None:
    """Batch size and lane come back too, so that a resumed run goes on as it began."""
    recipe = recipe_of(kept(RandomSource(5, seed), batch_size, lane))
    assert (recipe.batch_size, recipe.lane, recipe.count) == (batch_size, lane, 5)


def test_random_messages_are_made_again() -> None:
    """The seed is all it takes."""
    source = RandomSource(50, 2**63 - 1)
    assert list(source_of(recipe_of(kept(source))).messages(0)) == list(source.messages(0))


@pytest.mark.parametrize("text", ["Hi {name}", None])
def test_contacts_are_made_again(
    text: str | None, contacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same file and template give the same messages, from whatever folder the run is resumed."""
    monkeypatch.chdir(tmp_path)
    source = ContactsSource.open(Path(contacts.name), Options(text=text))
    recipe = kept(source)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = source_of(recipe_of(recipe))
    assert again.count == 2
    monkeypatch.chdir(tmp_path)
    assert list(again.messages(0)) == list(source.messages(0))


def test_how_a_file_is_read_is_kept(tmp_path: Path) -> None:
    """Column, delimiter, country, numbers for fiction and `once` are those of the beginning."""
    path = tmp_path / "contacts.csv"
    path.write_text("who~call\nAnn~040 1234567\nAnn~040 1234567\nBob~+12025550150\n")
    options = Options(
        text="Hi {who}", number_column="call", delimiter="~", numbers=NumberRules("FI", reserved=True)
    )
    source = ContactsSource.open(path, options, once=True)
    again = source_of(recipe_of(kept(source)))
    assert [m.to for m in again.messages(0)] == ["+358401234567", "+12025550150"]


def test_other_messages_than_before_are_refused(contacts: Path) -> None:
    """The file is the same, and another version reads it in another way: seqs would not fit."""
    recipe = recipe_of(kept(ContactsSource.open(contacts, Options())))
    with pytest.raises(UsageError, match="makes 2 messages now, and made 3 when the run began"):
        source_of(msgspec.structs.replace(recipe, count=3))


def test_a_changed_file_is_refused(contacts: Path) -> None:
    """One character more, and the messages would not be the same: UsageError that names the file."""
    recipe = recipe_of(kept(ContactsSource.open(contacts, Options())))
    contacts.write_text(contacts.read_text() + "\n")
    with pytest.raises(UsageError, match=r"contacts\.csv is not the file that the run began with"):
        source_of(recipe)


def test_a_missing_file_is_refused(contacts: Path) -> None:
    """It can't be read, and the line says so."""
    recipe = recipe_of(kept(ContactsSource.open(contacts, Options())))
    contacts.unlink()
    with pytest.raises(UsageError, match=r"contacts\.csv: can't be read"):
        source_of(recipe)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(source="gateway", count=5, batch_size=1),
        Recipe(source="random", count=5, batch_size=1),
        Recipe(source="csv", count=5, batch_size=1),
        Recipe(source="csv", count=5, batch_size=1, sha256="a pipe's"),
        Recipe(source="", count=0, batch_size=1),
    ],
)
def test_what_can_not_be_made_again_is_refused(recipe: Recipe) -> None:
    """Another service's run, or a recipe with its essence missing."""
    with pytest.raises(UsageError, match="can't be made again"):
        source_of(recipe)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "null",
        "nonsense",
        '{"source":"random","count":5,"batch_size":0}',
        '{"source":"random","count":"5","batch_size":1}',
    ],
)
def test_a_recipe_that_is_none_of_ours_is_refused(text: str) -> None:
    """UsageError, not a decoder's error, for whatever else stands in the ledger."""
    with pytest.raises(UsageError, match="can't be resumed"):
        recipe_of(text)
