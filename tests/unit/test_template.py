"""common/contacts/templates.py: `{column}`, and braces themselves."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from common.contacts.templates import Template, has_placeholder
from common.errors import UsageError
from common.sms.characters import is_blank

names = st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"]), min_size=1, max_size=12)
values = st.text(min_size=1).filter(
    lambda value: value == value.strip() and not is_blank(value) and value[0] != "#"
)


@given(st.text())
def test_doubled_braces_are_braces(text: str) -> None:
    """Any text at all can be said: with its braces doubled it comes out as it is."""
    assert Template(text.replace("{", "{{").replace("}", "}}"), []).fill([]) == text


@given(st.dictionaries(names, values, min_size=1, max_size=4), st.data())
def test_columns_stand_for_their_values(contact: dict[str, str], data: st.DataObject) -> None:
    """Columns and literal texts, in any order and number, are filled in and joined, values taken as they are."""
    plain = st.tuples(st.just(False), st.text(st.characters(exclude_characters="[<(%#*«$")))
    column = st.tuples(st.just(True), st.sampled_from(sorted(contact)))
    pieces = data.draw(st.lists(plain | column, max_size=8))
    template = "".join(
        f"{{{piece}}}" if is_column else piece.replace("{", "{{").replace("}", "}}")
        for is_column, piece in pieces
    )
    filled = Template(template, list(contact)).fill(list(contact.values()))
    assert filled == "".join(contact[piece] if is_column else piece for is_column, piece in pieces)


@given(names, names)
def test_an_unknown_column_is_refused(column: str, other: str) -> None:
    """The error names the column and those that there are."""
    assume(column != other)
    with pytest.raises(UsageError) as caught:
        Template(f"Hi {{{column}}}", [other])
    assert f"{{{column}}}" in str(caught.value)
    assert other in str(caught.value)


def test_braces_in_a_value_stay_as_they_are() -> None:
    """A contact called `{name}` is no template."""
    assert Template("Hi {name}", ["name"]).fill(["{name} {{x}}"]) == "Hi {name} {{x}}"


def test_three_braces_are_a_brace_around_a_value() -> None:
    """`{{{name}}}` gives `{Ann}`."""
    assert Template("{{{name}}}", ["name"]).fill(["Ann"]) == "{Ann}"


@pytest.mark.parametrize(
    ("text", "brace", "character"),
    [("Hi {name", "{", 4), ("Hi }", "}", 4), ("{", "{", 1), ("{{}", "}", 3), ("{name}}", "}", 7)],
)
def test_a_lone_brace_is_refused(text: str, brace: str, character: int) -> None:
    """The error says which, where it stands, counting from 1, and how to write it."""
    with pytest.raises(UsageError) as caught:
        Template(text, ["name"])
    assert f"a lone {brace} at character {character}:" in str(caught.value)
    assert f"write it as {brace * 2}" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["{}", "{ name }", "{Name}", "{name!r}", "{0}", "{name:>10}", "{name.__class__}"]
)
def test_there_is_no_more_to_it_than_columns(text: str) -> None:
    """Neither positions, formats, attributes nor other cases: names are exact, and what has none can't be named."""
    with pytest.raises(UsageError, match="no column"):
        Template(text, ["", "name"])


@pytest.mark.parametrize(
    "written",
    [
        "{{name}}",
        "{{ name }}",
        "{{Name}}",
        "((name))",
        "[name]",
        "[[name]]",
        "<name>",
        "<<name>>",
        "%name%",
        "*|NAME|*",
        "«name»",
        "#name#",
        "$name",
        "{{contact.name}}",
        "{{name|upper}}",
        '{{ name | default("you") }}',
        "%name|you%",
        "｛name｝",  # noqa: RUF001
        "__name__",
        "50% off, %name%",
    ],
)
def test_placeholders_of_other_programs_are_refused(written: str) -> None:
    """They would be sent as they stand. The error says how to write them."""
    with pytest.raises(UsageError) as caught:
        Template(f"Hi {written}!", ["number", "name", "!"])
    assert "name" in str(caught.value)
    assert "write {name}" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "{{nobody}}",
        "(name)",
        "50% off, 20% more",
        "$5 #1",
        "#names#",
        "[-]",
        "a < b > c",
        "${name}",
        "{{{name}}}",
        "[1]",
        "a__name__b",
    ],
)
def test_what_names_no_column_is_text(text: str) -> None:
    """Brackets are text where what they hold is no column; `$` before a value is an amount."""
    Template(text, ["number", "name", "!"])


@pytest.mark.parametrize("value", ["", " ", "\u200b", "\u00a0", "#N/A", "#REF!", "########"])
def test_a_value_that_is_none_is_an_error(value: str) -> None:
    """Empty, invisible, or what a spreadsheet exports for a formula that failed; the error names the column."""
    with pytest.raises(ValueError, match=r"^column code "):
        Template("Hi {name}: {code}", ["name", "code"]).fill(["Ann", value])
    assert Template("Hi {name}", ["name", "code"]).fill(["Ann", value]) == "Hi Ann"


@pytest.mark.parametrize(
    ("text", "holds"),
    [("Hi {name}", True), ("Hi ((Name))", True), ("Hi {you}", False), ("Hi name", False), ("{number}", True)],
)
def test_a_text_may_hold_a_placeholder(text: str, holds: bool) -> None:
    """For texts that come from a column, which are not filled in."""
    assert has_placeholder(text, ["number", "name"]) is holds
