"""Numbers and texts of a run in chunks, compressed: how a tracker keeps those of untracked messages."""

import zlib
from collections.abc import Iterable, Iterator
from itertools import groupby

import msgspec

from common.messages import Message

# Larger chunks compress little better, and one is unpacked whole to read one text.
CHUNK_MESSAGES = 1_000

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[Message]).decode


def chunk_of(seq: int) -> int:
    """The number of the chunk that a message belongs to."""
    return seq // CHUNK_MESSAGES


def packed(messages: Iterable[Message]) -> Iterator[tuple[int, bytes]]:
    """The messages as (chunk, piece of it): JSON of the wire form, in a zlib stream. A chunk is its pieces in a row."""
    for chunk, piece in groupby(messages, lambda message: chunk_of(message.seq)):
        yield chunk, zlib.compress(_encode(list(piece)), level=1)


def unpacked(pieces: bytes) -> Iterator[Message]:
    """The messages of a chunk."""
    while pieces:
        stream = zlib.decompressobj()
        yield from _decode(stream.decompress(pieces))
        pieces = stream.unused_data
