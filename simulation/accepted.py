"""The messages that a mock provider has accepted: in memory to find repeated ones, and as a record in a file."""

import os
from pathlib import Path

from common.errors import UsageError


class AcceptedMessages:
    """A set of messages: one bit each, in pieces. Beyond `most_pieces`, 64 MiB, the oldest piece is forgotten."""

    PIECE = 1 << 17

    def __init__(self, most_pieces: int = 4096) -> None:
        self._most_pieces = most_pieces
        self._pieces: dict[tuple[str, int], bytearray] = {}

    def add(self, run: str, seq: int) -> bool:
        """Adds a message; whether it was not there before."""
        piece, place = divmod(seq, self.PIECE)
        bits = self._pieces.get((run, piece))
        if bits is None:
            if len(self._pieces) == self._most_pieces:
                del self._pieces[next(iter(self._pieces))]
            bits = self._pieces[run, piece] = bytearray(self.PIECE // 8)
        byte, bit = place >> 3, 1 << (place & 7)
        is_new = not bits[byte] & bit
        bits[byte] |= bit
        return is_new

    def clear(self) -> None:
        """Removes all messages."""
        self._pieces.clear()


class Record:
    """A file with a line `<id> <attempt>` for each accepted send, which survives kill -9 of this process."""

    def __init__(self, path: Path) -> None:
        """Opens the file; lines are appended. Raises UsageError if it can't be opened."""
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise UsageError(f"--record {path}: can't be opened: {error.strerror}") from None

    def append(self, message_id: str, attempt: int) -> None:
        """Writes a line. Raises OSError."""
        os.write(self._file, f"{message_id} {attempt}\n".encode())

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)
