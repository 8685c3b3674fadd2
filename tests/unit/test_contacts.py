"""common/contacts/files.py: messages to the contacts of a CSV file."""

import csv
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.contacts.files import DEFAULT_TEXT, BadRow, ContactsSource
from common.errors import UsageError
from common.messages import MAX_TEXT_CHARS, Message

NO_E164 = "the number is not E.164 (+ and 7 to 15 digits, country code first)"
A, B, C = "+358401234567", "+4915112345678", "+12025550123"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "contacts.csv"


def opened(path: Path, content: str | bytes, text: str | None = None) -> tuple[list[Message], list[BadRow]]:
    """The messages and the bad rows of a file with this content."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    source, bad = ContactsSource.open(path, text)
    messages = list(source.messages(0))
    assert source.count == len(messages)
    assert [m.seq for m in messages] == list(range(source.count))
    return messages, bad


def refusal(path: Path, content: str | bytes, text: str | None = None) -> str:
    """The one line in which a file with this content is refused."""
    with pytest.raises(UsageError) as caught:
        opened(path, content, text)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("column", ["number", "phone", "Number", "PHONE", " number ", '"number"'])
def test_the_number_column(column: str, path: Path) -> None:
    """`number` or `phone`, in any case, wherever it stands, with spaces or quotes around it."""
    messages, bad = opened(path, f"name,{column}\nAnn,{A}\n")
    assert (messages, bad) == ([Message(0, A, DEFAULT_TEXT)], [])


@pytest.mark.parametrize("column", ["text", "message", "Text", "MESSAGE"])
def test_the_text_column(column: str, path: Path) -> None:
    """Where no template is given, a column `text` or `message` holds the texts."""
    messages, _ = opened(path, f"number,{column}\n{A},Hi {{you}}\n")
    assert messages == [Message(0, A, "Hi {you}")]


def test_a_template_beats_the_text_column(path: Path) -> None:
    """--text says what is sent; the columns are there to be used in it."""
    messages, _ = opened(path, f"number,name,text\n{A},Ann,unused\n", "Hi {name} of {number}")
    assert messages == [Message(0, A, f"Hi Ann of {A}")]


def test_an_unknown_column_in_the_template_is_refused(path: Path) -> None:
    """The line names the column and lists those of the file."""
    assert refusal(path, f"number,name\n{A},Ann\n", "Hi {nmae}") == (
        "--text: no column {nmae}: the file has number, name"
    )


def test_a_byte_order_mark_is_skipped(path: Path) -> None:
    """As Excel writes it, before the very column that is looked for."""
    messages, _ = opened(path, f"\ufeffnumber,name\r\n{A},Ann\r\n")
    assert messages == [Message(0, A, DEFAULT_TEXT)]


def test_values_keep_quotes_commas_and_line_ends(path: Path) -> None:
    """RFC 4180: quoted cells may hold commas, doubled quotes and line ends, which go into the text."""
    messages, bad = opened(path, f'number,text\n{A},"a, ""b""\nc"\n')
    assert (messages, bad) == ([Message(0, A, 'a, "b"\nc')], [])


@pytest.mark.parametrize(
    "written", ["+358 40 123 4567", "+358-40-1234567", " +358 (40) 123.45/67 ", "+358\u00a0401234567"]
)
def test_punctuation_in_a_number_is_taken_out(written: str, path: Path) -> None:
    """Numbers as people write them become E.164."""
    messages, _ = opened(path, f"number\n{written}\n")
    assert messages == [Message(0, A, DEFAULT_TEXT)]


def test_bad_rows_are_told_by_their_line(path: Path) -> None:
    """Each with the line it ends on and why; the good ones around them are numbered without a gap."""
    long = "x" * (MAX_TEXT_CHARS + 1)
    content = (
        "name,number,text\n"  # 1
        f"Ann,{A},hi\n"  # 2
        "Bob,,hi\n"  # 3
        "\n"  # 4
        f'"Cid\nthe second",{B},"two\nlines"\n'  # 5 to 7
        '"Dee\nthe third",0401234567,hi\n'  # 8 and 9
        f"Eve,{A},\n"  # 10
        f"Fay,{A},{long}\n"  # 11
        "Gus\n"  # 12
        f"Hal,{C},hi\n"  # 13
    )
    messages, bad = opened(path, content)
    assert messages == [Message(0, A, "hi"), Message(1, B, "two\nlines"), Message(2, C, "hi")]
    assert bad == [
        BadRow(3, "no number"),
        BadRow(9, NO_E164),
        BadRow(10, "the text is empty"),
        BadRow(11, "the text has 1601 characters, over the limit of 1600"),
        BadRow(12, "no number"),
    ]


@pytest.mark.parametrize(
    "number", ["0401234567", "358401234567", "+35840123456x", "+12", "+1234567890123456", "'" + A]
)
def test_a_reason_quotes_nothing_of_its_row(number: str, path: Path) -> None:
    """Reasons end up in logs, where numbers and texts may not."""
    _, (bad,) = opened(path, f"number,text\n{number},secret\n{A},hi\n")
    assert "secret" not in bad.reason
    assert not any(part in bad.reason for part in ("1234567", "35840", number))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", "the file is empty: it needs a header with a column named number or phone"),
        (" \n\n", "the file is empty: it needs a header with a column named number or phone"),
        ("\ufeff", "the file is empty: it needs a header with a column named number or phone"),
        ("number,name\n", "no contact to send to: it has no rows"),
        ("number\n\n\n", "no contact to send to: it has no rows"),
        ("number\n\n12\n", f"no contact to send to: line 3: {NO_E164}"),
        (f"name,numbers\nAnn,{A}\n", "no column named number or phone; it has name, numbers"),
        (f"{A},Ann\n", f"no column named number or phone; it has {A}, Ann"),
        (f"number,name,name\n{A},Ann,Bob\n", "column name is twice in the header"),
        (f"number,number\n{A},{B}\n", "column number is twice in the header"),
        (f'number,name\n{A},"Ann\n', "line 2: unexpected end of data"),
    ],
)  # fmt: skip
def test_a_file_that_can_not_be_used_is_one_clear_line(content: str, line: str, path: Path) -> None:
    """It names the file and what is wrong with it."""
    assert refusal(path, content) == f"{path}: {line}"


def test_a_file_that_is_missing_is_one_clear_line(tmp_path: Path) -> None:
    """So is a folder in its place."""
    with pytest.raises(UsageError, match=r"no\.csv: can't be read: No such file"):
        ContactsSource.open(tmp_path / "no.csv", None)
    with pytest.raises(UsageError, match=r"can't be read: Is a directory"):
        ContactsSource.open(tmp_path, None)


@pytest.mark.parametrize(
    "content",
    [
        f"number,name\n{A},Zo\xeb\n".encode("latin-1"),
        f"number,name\n{A},Ann\n".encode("utf-16"),
        b"number\n" + f"{A}\n".encode() * 5_000 + b"\xff\n",
        b"\xff\xfe\x00",
    ],
    ids=["Latin-1", "UTF-16", "late in a long file", "binary"],
)
def test_a_file_that_is_not_utf8_is_one_clear_line(content: bytes, path: Path) -> None:
    """Wherever the first bad byte stands, nothing is published, and the line says how to save the file."""
    line = refusal(path, content)
    assert re.match(rf"{re.escape(str(path))}: line [1-9][0-9]*: not UTF-8", line)
    assert line.endswith(": save the file as UTF-8")


def test_a_nul_byte_spoils_its_number_only(path: Path) -> None:
    """In a number it makes a bad row; in another cell it does no harm; it never ends in a traceback."""
    messages, bad = opened(path, f"number,name\n{A}\0,Ann\n{B},B\0b\n", "Hi {name}")
    assert messages == [Message(0, B, "Hi B\0b")]
    assert [row.line for row in bad] == [2]


def test_a_cell_beyond_any_measure_is_one_clear_line(path: Path) -> None:
    """A quote that never closes swallows the file; that is told, not read into memory without end."""
    line = refusal(path, f'number,name\n{A},"' + "x\n" * 200_000)
    assert line.startswith(f"{path}: line ")


def test_a_row_with_more_cells_than_the_header_is_bad(path: Path) -> None:
    """An unquoted comma would send to `Smith` what was meant for `Smith, John`."""
    messages, bad = opened(path, f"number,name\n{A},Smith, John\n{B},Ann\n", "Hi {name}")
    assert messages == [Message(0, B, "Hi Ann")]
    assert [row.line for row in bad] == [2]


def test_columns_without_a_name_may_repeat(path: Path) -> None:
    """Spreadsheets leave empty columns at the end of the header."""
    messages, _ = opened(path, f"number,name,,\n{A},Ann,,\n", "Hi {name}")
    assert messages == [Message(0, A, "Hi Ann")]


numbers = st.sampled_from([A, B, C, "", "12", "+35 840 123 4567"])
rows = st.lists(st.tuples(numbers, st.text(st.characters(codec="utf-8"), max_size=20)), max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows, st.integers(0, 12))
def test_resuming_from_the_middle_gives_the_same_messages(
    path: Path, rows: list[tuple[str, str]], first: int
) -> None:
    """messages(first) is the tail of messages(0), whatever rows are bad, and the same at every call."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("number", "name"), (A, "the first"), *rows])
    source, bad = ContactsSource.open(path, "Hi {name}")
    messages = list(source.messages(0))
    assert list(source.messages(first)) == messages[first:]
    assert source.count == len(messages)
    assert source.count + len(bad) == 1 + sum(any(cell.strip() for cell in row) for row in rows)
