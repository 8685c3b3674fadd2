"""common/contacts: messages to the contacts of a file."""

import csv
import os
import re
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.contacts.repeats import Limits as RepeatLimits
from common.contacts.repeats import Repeats
from common.contacts.rows import BadRow, Options
from common.contacts.source import ContactsSource, Limits
from common.errors import UsageError
from common.messages import MAX_TEXT_CHARS, Message
from common.sms.numbers import NumberRules

NO_PLUS = "number: not in international form: begin with + and the country code"
NO_COLUMN = (
    "no column named number or phone: the first row must be a header that has one;"
    " --number-column names another column, --delimiter what separates the columns"
)
A, B, C = "+358401234567", "+4915112345678", "+12025551234"
HI = Options(text="Hi {name}")
HELLO = Options(text="Hello")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "contacts.csv"


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def opened(path: Path, content: str | bytes, options: Options = HELLO) -> tuple[list[Message], list[BadRow]]:
    """The messages and the bad rows of a file with this content."""
    source = ContactsSource.open(written(path, content), options)
    messages = list(source.messages(0))
    assert source.count == len(messages)
    assert [m.seq for m in messages] == list(range(source.count))
    return messages, source.findings.bad


def refusal(path: Path, content: str | bytes, options: Options = HELLO) -> str:
    """The one line in which a file with this content is refused."""
    with pytest.raises(UsageError) as caught:
        opened(path, content, options)
    line = str(caught.value)
    assert "\n" not in line
    return line


# Columns


@pytest.mark.parametrize(
    "column",
    [
        *(
            "number",
            "phone",
            "Number",
            "PHONE",
            " number ",
            '"number"',
            "Phone Number",
            "phone_number",
            "Phone No.",
        ),
        *("Mobile", "mobile phone", "Cell", "Cell Phone", "Telephone", "Tel.", "MSISDN", "Contact number"),
        *("Phone 1 - Value", "\ufeffnumber", "\u200bnumber", '"Phone\nNumber"'),
    ],
)
def test_the_number_column(column: str, path: Path) -> None:
    """It has one of the usual names, as people and programs write them, wherever it stands."""
    messages, bad = opened(path, f"name,{column}\nAnn,{A}\n", HI)
    assert (messages, bad) == ([Message(0, A, "Hi Ann")], [])


@pytest.mark.parametrize(
    "columns", ["phone,number", "Home Phone,Mobile Phone", "Phone 1 - Value,Phone 2 - Value", "Number;MOBILE"]
)
def test_two_number_columns_are_refused(columns: str, path: Path) -> None:
    """The line names both, and the option to choose one; the option is heeded, in any case."""
    delimiter = columns[next(i for i, c in enumerate(columns) if c in ",;")]
    first, second = columns.split(delimiter)
    content = f"{columns}\n{A}{delimiter}{B}\n"
    assert refusal(path, content) == (
        f"{path}: columns {first} and {second} may all hold phone numbers: choose one with --number-column"
    )
    messages, _ = opened(path, content, Options(text="Hello", number_column=second.lower()))
    assert messages == [Message(0, B, "Hello")]


def test_the_space_in_a_name_is_one_space(path: Path) -> None:
    """A header may be wrapped, padded, or have no-break spaces."""
    header = 'Phone\u00a0Number,"Full\nName",Home  town'
    messages, _ = opened(path, f"{header}\n{A},Ann,York\n", Options(text="{Full Name} {Home town}"))
    assert messages == [Message(0, A, "Ann York")]


def test_a_header_of_any_width_is_read_in_time(path: Path) -> None:
    """Its names are counted once, not once for each name: that took minutes."""
    header = ",".join(["number", "name", *(f"c{k}" for k in range(100_000))])
    messages, _ = opened(path, f"{header}\n{A},Ann\n", HI)
    assert messages == [Message(0, A, "Hi Ann")]


def test_a_number_column_of_any_name(path: Path) -> None:
    """--number-column; one that is not there is refused."""
    content = f"name,Puhelin\nAnn,{A}\n"
    messages, _ = opened(path, content, Options(text="Hi", number_column="Puhelin"))
    assert messages == [Message(0, A, "Hi")]
    line = refusal(path, content, Options(text="Hi", number_column="Handy"))
    assert line == f"{path}: no column Handy, which --number-column names, in the header"


@pytest.mark.parametrize("column", ["text", "message", "Text", "MESSAGE", "body"])
def test_the_text_column(column: str, path: Path) -> None:
    """Where no template is given, a column `text`, `message` or `body` holds the texts."""
    messages, _ = opened(path, f"number,{column}\n{A},Hi {{you}}\n", Options())
    assert messages == [Message(0, A, "Hi {you}")]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ("number,note", "no text: give one with --text, or in a column named text or message"),
        (
            "number,text,Message",
            "columns text and Message may all hold the text: name one in --text, in braces",
        ),
    ],
)
def test_a_text_is_never_chosen_silently(columns: str, reason: str, path: Path) -> None:
    """Without a template and one text column there is no text to send, and no default."""
    assert refusal(path, f"{columns}\n{A},x,y\n", Options()) == f"{path}: {reason}"


def test_a_template_beats_the_text_column(path: Path) -> None:
    """--text is what is sent; the columns are there to be used in it."""
    messages, _ = opened(path, f"number,name,text\n{A},Ann,unused\n", Options(text="Hi {name} of {number}"))
    assert messages == [Message(0, A, f"Hi Ann of {A}")]


def test_an_unknown_column_in_the_template_is_refused(path: Path) -> None:
    """The line names the column and lists those of the file; of long and many names only the beginning."""
    line = refusal(path, f"number,name\n{A},Ann\n", Options(text="Hi {nmae}"))
    assert line == "--text: no column {nmae}: the file has number, name"
    many = ",".join(f"c{i}" + "x" * 1_000 for i in range(1_000))
    assert len(refusal(path, f"number,{many}\n{A}\n", Options(text="Hi {nmae}"))) < 1_000


# Files


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_files_as_programs_write_them(delimiter: str, encoding: str, line_end: str, path: Path) -> None:
    """Delimiters, encodings and line ends, in all combinations, are found out."""
    rows = [["name", "number", "note"], [f"Zoë{delimiter} Lee", A, 'a "b"'], ["Bob", "12", ""], ["Li", B, ""]]
    lines = [delimiter.join(f'"{c.replace(chr(34), chr(34) * 2)}"' for c in row) for row in rows]
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    messages, bad = opened(path, (mark + line_end.join(lines)).encode(encoding), HI)
    assert messages == [Message(0, A, f"Hi Zoë{delimiter} Lee"), Message(1, B, "Hi Li")]
    assert [row.line for row in bad] == [3]


@pytest.mark.parametrize("delimiter", [";", "~", "\t"])
def test_a_sep_line_names_the_delimiter(delimiter: str, path: Path) -> None:
    """Excel's first line is no row, and lines are counted with it."""
    content = f"\ufeffsep={delimiter}\r\nname{delimiter}number\r\nA,B{delimiter}{A}\r\nx{delimiter}12\r\n"
    assert opened(path, content, HI) == ([Message(0, A, "Hi A,B")], [BadRow(4, NO_PLUS)])


def test_a_delimiter_that_is_given_is_not_searched(path: Path) -> None:
    """--delimiter, also against a `sep=` line."""
    content = f"sep=,\nname~number\nA,B~{A}\n"
    messages, _ = opened(path, content, Options(text="Hi {name}", delimiter="~"))
    assert messages == [Message(0, A, "Hi A,B")]


def test_a_header_with_several_delimiters_has_the_one_that_gives_a_number_column(path: Path) -> None:
    """Other delimiters belong to the names of columns."""
    messages, _ = opened(path, f"name, first and last;phone\nAnn, Lee;{A}\n", HELLO)
    assert messages == [Message(0, A, "Hello")]


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"PK\x03\x04\x14\0", "Excel workbook"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "Excel workbook"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"BZh91AY&SY", "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
        (b"(\xb5/\xfd", "zstd"),
        (b"%PDF-1.7", "PDF"),
        (b"\n<!DOCTYPE html><table>", "web page"),
        (b'\xef\xbb\xbf[\n {"number": ', "JSON"),
        (b"BEGIN:VCARD\r\n", "vCard"),
        ("number".encode("utf-32"), "UTF-32"),
        ("number,name\n+358401234567,Ann\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        ("number,имя\n+358401234567,Константин\n".encode("utf-16-be"), "UTF-16 without a byte order mark"),
        (b"'number','name'\n'+358401234567','Ann'\n", "single quotes"),
    ],
)
def test_what_is_no_csv_file_is_refused_by_name(head: bytes, kind: str, path: Path) -> None:
    """And the line says what to do."""
    line = refusal(path, head)
    assert line.startswith(f"{path}: ")
    assert kind in line


@pytest.mark.parametrize(
    "content",
    [
        f"number,name\n{A},Zo\xeb\n".encode("latin-1"),
        b"number\n" + f"{A}\n".encode() * 5_000 + b"\xff\n",
        f"number\n{A}\n".encode() + b"\xc3",
    ],
    ids=["Latin-1", "late in a long file", "cut within a character"],
)
def test_a_file_that_is_not_utf8_is_one_clear_line(content: bytes, path: Path) -> None:
    """Wherever the first bad byte stands, nothing is published, and the line says how to save the file."""
    line = refusal(path, content)
    assert re.match(rf"{re.escape(str(path))}: line [1-9][0-9]*: not UTF-8", line)
    assert line.endswith(": save the file as UTF-8")


def test_a_file_that_is_no_utf16_after_all(path: Path) -> None:
    """Its byte order mark is wrong."""
    assert "not UTF-16, as its byte order mark says" in refusal(path, b"\xff\xfen\0u\0\0\xd8x")


def test_a_file_that_is_missing_is_one_clear_line(tmp_path: Path) -> None:
    """So is a folder or a device in its place."""
    with pytest.raises(UsageError, match=r"no\.csv: can't be read: No such file"):
        ContactsSource.open(tmp_path / "no.csv", HELLO)
    with pytest.raises(UsageError, match=r"can't be read: Is a directory"):
        ContactsSource.open(tmp_path, HELLO)
    with pytest.raises(UsageError, match="/dev/zero: neither a file nor a pipe"):
        ContactsSource.open(Path("/dev/zero"), HELLO)


def test_a_pipe_is_read_once_and_its_messages_many_times(tmp_path: Path) -> None:
    """It is copied; there is no path from which it could be read again."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=[f"number,name\n{A},Ann\n{B},Bob\n"])
    writer.start()
    source = ContactsSource.open(pipe, HI)
    writer.join()
    assert (
        list(source.messages(0))
        == list(source.messages(0))
        == [Message(0, A, "Hi Ann"), Message(1, B, "Hi Bob")]
    )
    assert source.recipe(1, "bulk").path is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", "the file is empty: it needs a header with a column named number or phone"),
        (" \n\n", "the file is empty: it needs a header with a column named number or phone"),
        ("\ufeff", "the file is empty: it needs a header with a column named number or phone"),
        ("sep=;\n", "the file is empty: it needs a header with a column named number or phone"),
        ("\u200b,'\nx\n", NO_COLUMN),
        ("number,name\n", "no contact to send to: it has no rows"),
        ("number\n\n\n", "no contact to send to: it has no rows"),
        ("number\n\n12\n", f"no contact to send to: line 3: {NO_PLUS}"),
        ("number\n12\n13\n14\n", f"no contact to send to: line 2: {NO_PLUS} (and 2 more)"),
        (f"name,numbers\nAnn,{A}\n", NO_COLUMN),
        (f"number,name,name\n{A},Ann,Bob\n", "column name is twice in the header"),
        (f"number,number\n{A},{B}\n", "column number is twice in the header"),
        (f'number,name\n{A},"Ann\n', "line 2: the quote that opens a cell is never closed"),
        (
            f'number,name\n{A},"Ann\n{B},"Bob"\n',
            "line 2 to line 3: a quote within a quoted cell: write it twice",
        ),
    ],
)
def test_a_file_that_can_not_be_used_is_one_clear_line(content: str, line: str, path: Path) -> None:
    """It names the file and what is wrong with it."""
    assert refusal(path, content) == f"{path}: {line}"


@pytest.mark.parametrize(
    "content",
    [
        f"{A},Ann Lee\n",
        f"{A};Ann Lee;12 High St\n",
        f"Ann Lee\t\t12 High St\nBob\t{A}\tx\n",
        f'Ann Lee,"12 High St\nLeeds",{A}\n',
        f'number,"name\n{A},Ann Lee\n{B},12 High St"\n{C},Cid\n',
    ],
)
def test_nothing_of_a_file_without_a_header_is_quoted(content: str, path: Path) -> None:
    """Its first row is somebody's data."""
    for options in (HI, Options(text="Hi", number_column="x"), Options()):
        line = refusal(path, content, options)
        assert not any(part in line for part in ("Ann", "Lee", "High", "Leeds", A[1:], B[1:]))


# Rows


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
        f"Hal,{A},a\x00b\n"  # 13
        f"Ida,{A},\u200b\n"  # 14
        f"Jim,{A},a,b\n"  # 15
        " , ,\n"  # 16
        f"Kim,{C},hi\n"  # 17
    )
    messages, bad = opened(path, content, Options())
    assert messages == [Message(0, A, "hi"), Message(1, B, "two\nlines"), Message(2, C, "hi")]
    assert bad == [
        BadRow(3, "no number"),
        BadRow(9, NO_PLUS),
        BadRow(10, "the text is blank: it needs something to read"),
        BadRow(11, "the text has 1601 characters, over the limit of 1600"),
        BadRow(12, "no number"),
        BadRow(13, "the text holds U+0000 NUL: leave control characters out"),
        BadRow(14, "the text is blank: it needs something to read"),
        BadRow(15, "more cells than the header: quote what holds a comma"),
    ]


def test_values_keep_quotes_delimiters_and_line_ends(path: Path) -> None:
    """RFC 4180: quoted cells may hold commas, doubled quotes and line ends, which go into the text, as LF."""
    messages, bad = opened(path, f'number,text\n{A},"a, ""b""\r\nc"\n', Options())
    assert (messages, bad) == ([Message(0, A, 'a, "b"\nc')], [])


@pytest.mark.parametrize(
    "number",
    [
        " +358 (40) 123-45-67 ",
        "+358\u00a0401234567",
        "'" + A,
        f'"=""{A}"""',
        "00358 40 1234567",
        "\u202a" + A,
    ],
)
def test_numbers_as_people_write_them(number: str, path: Path) -> None:
    """They become E.164."""
    messages, _ = opened(path, f"number\n{number}\n")
    assert messages == [Message(0, A, "Hello")]


def test_national_numbers_with_a_country(path: Path) -> None:
    """--country is that of numbers without a country code; the others keep theirs."""
    options = Options(text="Hello", numbers=NumberRules(country="FI"))
    messages, _ = opened(path, f"number\n040 1234567\n{B}\n", options)
    assert [m.to for m in messages] == [A, B]


@pytest.mark.parametrize(
    "number", ["0401234567", "358401234567", "+35840123456x", "+12", "+1234567890123456", "4.47701E+11"]
)
def test_a_reason_quotes_nothing_of_its_row(number: str, path: Path) -> None:
    """Reasons end up in logs, where numbers and texts may not."""
    _, (bad,) = opened(path, f"number,text\n{number},secret\n{A},hi\n", Options())
    assert "secret" not in bad.reason
    assert not any(part in bad.reason for part in ("1234567", "35840", number))


def test_a_placeholder_without_a_value_makes_a_bad_row(path: Path) -> None:
    """The reason names the column; a column that the template does not use may be empty."""
    content = f"number,name,code,note\n{A},,1\n{A},Ann,\u00a0\n{A}\n{A},Ann,#N/A\n{B},Bob,2\n"
    messages, bad = opened(path, content, Options(text="{name}: {code}"))
    assert messages == [Message(0, B, "Bob: 2")]
    assert bad == [
        BadRow(2, "column name is empty"),
        BadRow(3, "column code is empty"),
        BadRow(4, "column name is empty"),
        BadRow(5, "column code holds #N/A, an error of the spreadsheet"),
    ]


def test_texts_with_placeholders_are_counted(path: Path) -> None:
    """Texts from a column are sent as they stand."""
    content = f"number,name,text\n{A},Ann,Hi {{name}}\n{B},Bob,Hi ((name))\n{C},Cid,Hi {{x}} (name)\n"
    source = ContactsSource.open(written(path, content), Options())
    assert (source.count, source.findings.unfilled) == (3, 2)


@pytest.mark.parametrize("header", ["number,name", "number,name,", "number,name,,", ",number,name,"])
def test_a_row_with_more_cells_than_named_columns_is_bad(header: str, path: Path) -> None:
    """An unquoted comma would send to `Smith` what was meant for `Smith, John`. Empty cells are no matter."""
    at = "x," if header.startswith(",") else ""
    messages, bad = opened(path, f"{header}\n{at}{A},Smith, John\n{at}{B},Ann,,,\n", HI)
    assert (messages, [row.line for row in bad]) == ([Message(0, B, "Hi Ann")], [2])


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (f'number,name\n{A},"Ann\n{B},Bob\n{C},Cid"\n', "line 2 to line 4"),
        (f'name,number\nZoe,{A}\n"Ann,{A}\nBob",{B}\n', "line 3 to line 4"),
        (f'number;name;town\n{A};"Ann;Leeds\n{B};Bob;York"\n', "line 2 to line 3"),
        (f'number,name\r\n{A},Ann\r\n"{B},Bob\r\n{C},Cid\r\n"\r\n', "line 3 to line 5"),
        (f'number\n{A}\n"{B}\n{C}"\n', "line 3 to line 4"),
        (f'number,name\n{A},"Ann\n(+44) 20 7946 0958,Bob"\n', "line 2 to line 3"),
        (f'number,name\n{A},"Ann\n＋44 20‑7946‑0958,Bob"\n', "line 2 to line 3"),  # noqa: RUF001
    ],
)
def test_a_stray_quote_that_swallows_rows_is_refused(content: str, place: str, path: Path) -> None:
    """Otherwise people would get the names and numbers of others in their text."""
    line = refusal(path, content, HELLO)
    assert line.startswith(f"{path}: {place}: a quoted cell holds what look like whole rows")


@pytest.mark.parametrize(
    "content",
    [
        f'number,address\n{A},"1 High St\nLeeds, 2nd floor"\n',
        f'address,number\n"1 High St\nLeeds, 2nd floor",{A}\n',
        f'number,note\n{A},"call\n{B}"\n',
        f'note,number\n"call\n{B}, or\nme",{A}\n',
        f'number,note\n{A},"12, High St\n2023, Leeds"\n',
    ],
)
def test_cells_of_several_lines_are_no_swallowed_rows(content: str, path: Path) -> None:
    """Addresses and notes, even with numbers in them."""
    messages, bad = opened(path, content)
    assert (messages, bad) == ([Message(0, A, "Hello")], [])


def test_a_quote_may_follow_a_space(path: Path) -> None:
    """People who write a file by hand put spaces after commas."""
    messages, bad = opened(path, f'number, name\n{A}, "Lee, Bob"\n{B}, "Ann"\n', HI)
    assert (messages, bad) == ([Message(0, A, "Hi Lee, Bob"), Message(1, B, "Hi Ann")], [])


def test_two_numbers_in_a_cell_are_one_bad_row(path: Path) -> None:
    """The rows after it are sent."""
    messages, bad = opened(path, f'number,name\n"{A}\n{B}",Ann\n{C},Cid\n')
    assert ([m.to for m in messages], [row.line for row in bad]) == ([C], [3])


@pytest.mark.parametrize("content", ['"' + "x\n" * 200_000, "x" * 2_000_000, "x," * 1_000_000])
def test_a_cell_or_line_beyond_any_measure_is_one_clear_line(content: str, path: Path) -> None:
    """It is not read into memory without end."""
    line = refusal(path, f"number,name\n{A},{content}")
    assert line.startswith(f"{path}: line 2")
    assert "more" in line


def test_columns_without_a_name_may_hold_anything_before_the_last_named_one(path: Path) -> None:
    """Spreadsheets leave empty columns around a table, and some programs write an index with no name."""
    messages, _ = opened(path, f",,number,name,,\n7,,{A},Ann,,\n", HI)
    assert messages == [Message(0, A, "Hi Ann")]


# What is dropped, and counted


def test_bad_rows_are_listed_up_to_a_limit(path: Path) -> None:
    """All are counted."""
    written(path, "number\n" + "12\n" * 50 + f"{A}\n")
    findings = ContactsSource.open(path, HELLO, limits=Limits(listed=10)).findings
    assert (findings.rows, findings.skipped) == (51, 50)
    assert [row.line for row in findings.bad] == list(range(2, 12))


def test_repeated_rows_are_counted_or_left_out(path: Path) -> None:
    """The same number, however it is written, and the same text; two texts to one number are both sent."""
    content = f"number,text\n{A},x\n{B},x\n00358 40 1234567,x\n{A},y\n12,x\n{A},x\n{B},x\n"
    source = ContactsSource.open(written(path, content), Options())
    assert (source.count, source.findings.duplicates) == (6, 3)
    once = ContactsSource.open(path, Options(), once=True)
    assert list(once.messages(0)) == [Message(0, A, "x"), Message(1, B, "x"), Message(2, A, "y")]
    assert (once.findings.rows, once.findings.skipped, once.findings.duplicates) == (7, 1, 3)


@given(st.lists(st.integers(0, 30), max_size=120), st.integers(1, 20))
def test_repeats_are_all_but_the_first_of_equal_rows(contents: list[int], block: int) -> None:
    """Whatever of them is sorted in memory or on disk."""
    repeats = Repeats(RepeatLimits(block=block))
    for line, content in enumerate(contents):
        repeats.add(line, ("", str(content)))
    found = sorted(line for lines in repeats.lines() for line in lines.tolist())
    assert found == [line for line, content in enumerate(contents) if content in contents[:line]]


numbers = st.sampled_from([A, B, C, "", "12", "+35 840 123 4567"])
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cf"]), max_size=20)
rows = st.lists(st.tuples(numbers, names), max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows, st.integers(0, 12), st.booleans())
def test_resuming_from_the_middle_gives_the_same_messages(
    path: Path, rows: list[tuple[str, str]], first: int, once: bool
) -> None:
    """messages(first) is the tail of messages(0), whatever rows are dropped, and the same at every call."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("number", "name"), (A, "the first"), *rows])
    source = ContactsSource.open(path, HI, once=once)
    messages = list(source.messages(0))
    assert list(source.messages(first)) == messages[first:]
    assert source.count == len(messages)
    findings = source.findings
    assert findings.rows == 1 + sum(any(cell.strip() for cell in row) for row in rows)
    assert source.count + findings.skipped + once * findings.duplicates == findings.rows


@pytest.mark.parametrize("changed", [f"number\n{A}\n{C}\n", f"number\n{A}\n", f"number\n{A}\n{B}\n{C}\n"])
def test_a_file_that_changes_in_mid_run_is_an_error(changed: str, path: Path) -> None:
    """Even if it has as many rows as before."""
    source = ContactsSource.open(written(path, f"number\n{A}\n{B}\n"), HELLO)
    written(path, changed)
    with pytest.raises(UsageError, match="was changed while it was being published"):
        list(source.messages(0))


def test_a_file_that_is_replaced_in_mid_run_does_no_harm(path: Path) -> None:
    """What was opened is read on."""
    source = ContactsSource.open(written(path, f"number\n{A}\n"), HELLO)
    path.unlink()
    written(path, f"number\n{B}\n")
    assert list(source.messages(0)) == [Message(0, A, "Hello")]
