"""What a run would send and what it would take in segments, without publishing anything."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from common.contacts.source import ContactsSource
from common.publishing.recipes import Source
from common.sms.characters import named
from common.sms.segments import Segments, dear_character, segments


@dataclass(frozen=True, slots=True)
class _Priced:
    """A text and what it takes.

    Attributes:
        place: Its line in the contacts file, else its seq.
    """

    place: dict[str, int]
    text: str
    price: Segments

    def as_json(self) -> dict[str, Any]:
        """The place, the segments, and the first character that GSM-7 lacks, which makes the text UCS-2."""
        described: dict[str, Any] = {
            **self.place,
            "segments": self.price.segments,
            "encoding": self.price.encoding,
        }
        if character := dear_character(self.text):
            described |= {"character": named(character), "at": self.text.index(character) + 1}
        return described


def dry_run(source: Source) -> dict[str, Any]:
    """Messages, segments by encoding and in total, the dearest message, and what a contacts file drops."""
    messages, parts = Counter[str](), Counter[str]()
    dearest: _Priced | None = None
    for place, text in _texts(source):
        price = segments(text)
        messages[price.encoding] += 1
        parts[price.encoding] += price.segments
        if dearest is None or price.segments > dearest.price.segments:
            dearest = _Priced(place, text, price)
    return {
        "dry_run": True,
        "messages": messages.total(),
        "segments": parts.total(),
        "encodings": {e: {"messages": messages[e], "segments": parts[e]} for e in sorted(messages)},
        "dearest": dearest and dearest.as_json(),
        **_of_the_file(source),
    }


def _texts(source: Source) -> Iterator[tuple[dict[str, int], str]]:
    """Each text of a source, with its place."""
    if isinstance(source, ContactsSource):
        for row in source.rows():
            yield {"line": row.line}, row.text
    else:
        for message in source.messages(0):
            yield {"seq": message.seq}, message.text


def _of_the_file(source: Source) -> dict[str, Any]:
    if not isinstance(source, ContactsSource):
        return {}
    findings = source.findings
    return {
        "rows": findings.rows,
        **findings.counts(),
        "bad_rows": [{"line": row.line, "reason": row.reason} for row in findings.bad],
    }
