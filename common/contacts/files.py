"""A contacts file as text. Files of other kinds are refused by name; a pipe, which can be read once, is copied."""

import hashlib
import io
import os
import re
import stat
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from common.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BUFFER_BYTES = 1 << 18
_HEAD_BYTES = 4096
_SAVE_AS = "save it as CSV UTF-8"

# The first bytes of files that are given the name of a CSV file by mistake.
_OTHER_KINDS = {
    b"PK\x03\x04": f"an Excel workbook or another zip archive: open it in the spreadsheet and {_SAVE_AS}",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": f"an old Excel workbook: open it in the spreadsheet and {_SAVE_AS}",
    b"\x1f\x8b": "compressed by gzip: decompress it first",
    b"BZh91AY&SY": "compressed by bzip2: decompress it first",
    b"\xfd7zXZ\0": "compressed by xz: decompress it first",
    b"(\xb5/\xfd": "compressed by zstd: decompress it first",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it first",
    b"%PDF-": f"a PDF document: {_SAVE_AS} from the program that made it",
    b"{\\rtf": f"a text document (RTF): {_SAVE_AS} from a spreadsheet",
    b"PAR1": f"a Parquet file: {_SAVE_AS}",
    b"BEGIN:VCARD": "vCard: export the contacts as CSV",
    b"\xff\xfe\0\0": f"UTF-32: {_SAVE_AS}",
    b"\0\0\xfe\xff": f"UTF-32: {_SAVE_AS}",
    b"SQLite format 3\0": f"an SQLite database: export the table and {_SAVE_AS}",
}
_MARKUP = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<(?:!doctype|html|\?xml|table)|\[\s*[{\[]|\{\s*\")", re.IGNORECASE
)


class ContactsFile:
    """The text of a file, which can be read from its beginning any number of times, by several readers at once.

    It is opened once, so a file that is replaced meanwhile does not mix with it. Raises UsageError if it can't be read
    or is no text.

    Attributes:
        name: The name of the file in messages.
        path: The path from which it can be read again; None for a pipe.
        encoding: Its encoding: UTF-8, or UTF-16 where a byte order mark says so.
        sha256: The checksum of its content, once a reader has come to the end.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.sha256: str | None = None
        with self._reading_errors():
            file, self.path = _opened(path)
            self._descriptor = os.dup(file.fileno())
            file.close()
            weakref.finalize(self, os.close, self._descriptor)
            self.encoding = self._encoding(os.pread(self._descriptor, _HEAD_BYTES, 0))

    @contextmanager
    def text(self) -> Iterator[io.TextIOWrapper]:
        """The text from its beginning. Raises UsageError where it has a wrong encoding."""
        raw = _FromTheBeginning(self._descriptor)
        with (
            self._reading_errors(),
            io.TextIOWrapper(io.BufferedReader(raw, _BUFFER_BYTES), self.encoding, newline="") as text,
        ):
            yield text
            if not text.read(1):
                self.sha256 = raw.sha256.hexdigest()

    @contextmanager
    def _reading_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UsageError(f"{self.name}: can't be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise UsageError(f"{self.name}: {self._wrong_encoding()}") from None

    def _encoding(self, head: bytes) -> str:
        for begins, kind in _OTHER_KINDS.items():
            if head.startswith(begins):
                raise UsageError(f"{self.name}: no CSV file, but {kind}")
        if _MARKUP.match(head):
            raise UsageError(f"{self.name}: no CSV file, but a web page, XML or JSON: {_SAVE_AS}")
        if head.startswith((b"\xff\xfe", b"\xfe\xff")):
            return "utf-16"
        if _is_utf16(head):
            raise UsageError(f"{self.name}: UTF-16 without a byte order mark: {_SAVE_AS}")
        return "utf-8-sig"

    def _wrong_encoding(self) -> str:
        if self.encoding == "utf-16":
            return f"not UTF-16, as its byte order mark says: {_SAVE_AS}"
        # The decoder does not know the line, since it decodes many lines at a time.
        with io.BufferedReader(_FromTheBeginning(self._descriptor), _BUFFER_BYTES) as file:
            for number, line in enumerate(file, 1):
                try:
                    line.decode()
                except UnicodeDecodeError:
                    return f"line {number}: not UTF-8: save the file as UTF-8"
        return "not UTF-8: save the file as UTF-8"  # it was changed meanwhile


class _FromTheBeginning(io.RawIOBase):
    """One reading of an open file, with a position of its own, and the checksum of what was read."""

    def __init__(self, descriptor: int) -> None:
        self.sha256 = hashlib.sha256()
        self._descriptor = descriptor
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer)
        count = os.preadv(self._descriptor, [view], self._at)
        self._at += count
        self.sha256.update(view[:count])
        return count


def _opened(path: Path) -> tuple[BinaryIO, Path | None]:
    """The file, or a copy of a pipe's content; and the path at which it can be opened again."""
    file = path.open("rb")
    mode = os.fstat(file.fileno()).st_mode
    if stat.S_ISREG(mode):
        return file, path.resolve()
    if not stat.S_ISFIFO(mode) and not file.isatty():
        file.close()
        raise UsageError(f"{path}: neither a file nor a pipe")
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    with file:
        while block := file.read(_BUFFER_BYTES):
            copy.write(block)
    copy.flush()
    return copy, None


def _is_utf16(head: bytes) -> bool:
    """Whether it looks like UTF-16 without a byte order mark: one of the two bytes of digits and delimiters is NUL."""
    fewer, more = sorted((head[::2].count(0), head[1::2].count(0)))
    return more > 0.1 * (len(head) // 2) and fewer < more / 2
