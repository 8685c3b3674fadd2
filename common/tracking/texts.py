"""The untracked messages of a run as a tracker keeps them: compressed, in chunks."""

import zlib
from collections.abc import Iterable, Iterator
from itertools import groupby

import msgspec

from common.messages import Message

# Reading one text unpacks a whole chunk.
CHUNK_MESSAGES = 100

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[Message]).decode


def chunk_of(seq: int) -> int:
    """The number of a message's chunk."""
    return seq // CHUNK_MESSAGES


def packed(messages: Iterable[Message]) -> Iterator[tuple[int, bytes]]:
    """Chunk numbers, each with compressed JSON of its messages."""
    for chunk, some in groupby(messages, lambda message: chunk_of(message.seq)):
        yield chunk, zlib.compress(_encode(list(some)), level=1)


def unpacked(chunk: bytes) -> list[Message]:
    """The messages of a chunk."""
    return _decode(zlib.decompress(chunk))
