"""The contacts of a file as a producer's source of messages. One pass checks every row before anything is published."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from common.contacts.files import ContactsFile
from common.contacts.repeats import Repeats
from common.contacts.rows import BadRow, ContactsReader, Options, Row
from common.errors import UsageError
from common.messages import Lane, Message
from common.publishing.recipes import Recipe


@dataclass(frozen=True, slots=True)
class Limits:
    """The sizes that a source keeps within.

    Attributes:
        listed: Most bad rows that are kept with their reasons. The others are counted.
    """

    listed: int = 100


LIMITS = Limits()


@dataclass(slots=True)
class Findings:
    """What the producer drops and decides, from one pass over the file.

    Attributes:
        rows: The rows after the header, except blank ones.
        skipped: The number of bad rows.
        bad: The first bad rows.
        duplicates: Rows with the number and the text of an earlier row.
        unfilled: Rows whose text, from a column, holds a placeholder for another column, and is sent as it is.
    """

    rows: int = 0
    skipped: int = 0
    bad: list[BadRow] = field(default_factory=list)
    duplicates: int = 0
    unfilled: int = 0

    def counts(self) -> dict[str, int]:
        """The counts, by name; `unfilled` only if there are any."""
        counts = {"skipped": self.skipped, "duplicates": self.duplicates}
        return counts | {"unfilled": self.unfilled} if self.unfilled else counts


class ContactsSource:
    """The good rows of a contacts file. Bad rows have no seq.

    Attributes:
        count: The number of messages.
        sha256: The checksum of the file.
        findings: What became of the other rows.
    """

    NAME = "csv"

    def __init__(self, reader: ContactsReader, once: bool) -> None:
        self.count = 0
        self.sha256 = ""
        self.findings = Findings()
        self._reader = reader
        self._once = once
        self._dropped = _Lines()

    @classmethod
    def open(
        cls, path: Path, options: Options, *, once: bool = False, limits: Limits = LIMITS
    ) -> "ContactsSource":
        """Checks the whole file. Raises UsageError if it can't be read or has no good row.

        `once`: a row with the number and the text of an earlier row makes no message.
        """
        source = cls(ContactsReader(ContactsFile(path), options), once)
        try:
            source._check(limits)
        except OSError as error:
            raise UsageError(f"{path}: the temporary files can't be written: {error.strerror}") from None
        return source

    def recipe(self, batch_size: int, lane: Lane) -> Recipe:
        options, path = self._reader.options, self._reader.file.path
        return Recipe(
            source=self.NAME,
            count=self.count,
            batch_size=batch_size,
            lane=lane,
            path=None if path is None else str(path),
            sha256=self.sha256,
            text=options.text,
            number_column=options.number_column,
            delimiter=options.delimiter,
            country=options.numbers.country,
            reserved_numbers=options.numbers.reserved,
            once=self._once,
        )

    def messages(self, first: int) -> Iterator[Message]:
        for seq, row in enumerate(self.rows(first), first):
            if seq < self.count:
                yield Message(seq=seq, to=row.number, text=row.text)

    def rows(self, first: int = 0) -> Iterator[Row]:
        """The rows that make messages, but the first ones. Raises UsageError at the end if the file was changed."""
        count = min(first, self.count)
        for row in self._reader.rows(self._dropped, skip=first):
            if isinstance(row, Row):
                yield row
                count += 1
        if count != self.count or self._reader.file.sha256 != self.sha256:
            name = self._reader.file.name
            raise UsageError(f"{name} was changed while it was being published: restore it, then resume")

    def _check(self, limits: Limits) -> None:
        repeats = Repeats()
        for row in self._reader.rows():
            if isinstance(row, Row):
                self.count += 1
                self.findings.unfilled += row.unfilled
                repeats.add(row.line, (row.number, row.text))
                continue
            self._dropped.add(row.line)
            self.findings.skipped += 1
            if self.findings.skipped <= limits.listed:
                self.findings.bad.append(row)
        self.findings.rows = self.count + self.findings.skipped
        for lines in repeats.lines():
            self.findings.duplicates += len(lines)
            if self._once:
                self.count -= len(lines)
                for line in lines.tolist():
                    self._dropped.add(line)
        self.sha256 = self._reader.file.sha256 or ""
        if self.count == 0:
            bad = self.findings.bad
            first = f"line {bad[0].line}: {bad[0].reason}" if bad else "it has no rows"
            if more := self.findings.skipped - 1 if bad else 0:
                first += f" (and {more:,} more)"
            raise UsageError(f"{self._reader.file.name}: no contact to send to: {first}")


class _Lines:
    """A set of the numbers of lines: a bit for each line of the file."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, line: int) -> None:
        """Adds a line."""
        if line >> 3 >= len(self._bits):
            self._bits.extend(bytes(line // 8 + 1024))
        self._bits[line >> 3] |= 1 << (line & 7)

    def __iter__(self) -> Iterator[int]:
        """The lines, in order."""
        for at, byte in enumerate(self._bits):
            if byte:
                yield from (at * 8 + bit for bit in range(8) if byte >> bit & 1)
