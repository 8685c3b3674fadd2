"""The gateway's figures as markdown: `python -m studies.gateway.table FILE` prints that of a results file.

`--write` records the file as docs/gateway.json, and puts its tables into docs/gateway-performance.md.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.cli import EXIT_DONE, Parser
from studies.bench.table import as_table
from studies.gateway.load import JSON
from studies.page import conditions, filled

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, RECORDED = DOCS / "gateway-performance.md", DOCS / "gateway.json"
BEGIN, END = "<!-- gateway -->", "<!-- /gateway -->"
SINGLES = (
    *("connections", "accepted/s (lowest to highest)", "p50", "p99"),
    *("route that does nothing/s", "share", "the same, wrapped/s", "share"),
)
CPU = ("connections", "gateway", "sender", "RabbitMQ", "Redis")
BATCHES = ("messages a request", "requests", "JSON array, messages/s", "NDJSON, messages/s")


def main() -> int:
    """Prints, and writes if asked to."""
    parser = Parser("studies.gateway.table", "Shows the gateway's figures as markdown.")
    parser.add_argument("file", type=Path, help="what studies.gateway.__main__ wrote")
    parser.add_argument("--write", action="store_true", help=f"record it, in {DOCS}")
    args = parser.parse_args()
    text = args.file.read_text()
    tables = markdown(json.loads(text))
    if args.write:
        PAGE.write_text(with_tables(PAGE.read_text(), tables))
        RECORDED.write_text(text)
    print(tables)
    return EXIT_DONE


def with_tables(page: str, tables: str) -> str:
    """The page with the tables between its markers. Raises ValueError where it has none."""
    return filled(page, BEGIN, END, tables)


def markdown(results: dict[str, Any]) -> str:
    """All tables, with what there is to say on each."""
    at_once, slots = results["batches_at_once"], int(results["sending"]["SENDER_CONCURRENCY"])
    return "\n\n".join(
        [
            "`POST /sms`, one message a request, each answered once the broker has confirmed it:",
            as_table(SINGLES, _singles(results), left=0),
            "What a message took of each process, in milliseconds of CPU time, until wrk left:",
            as_table(CPU, _cpu(results), left=0),
            f"`POST /sms/batch`, {at_once} requests at a time:",
            as_table(BATCHES, _batches(results), left=0),
            *_asked(results),
            f"{results['messages']:,} messages were accepted in all, and every one was sent or failed.",
            f"{conditions(results)} Medians of {results['rounds']} rounds of {results['seconds']} s;"
            f" the sender has {slots:,} slots and takes {results['sending']['MEAN_PROCESSING_TIME']} s a send.",
        ]
    )


def _singles(results: dict[str, Any]) -> Iterable[tuple[str, ...]]:
    by_who = {(one["who"], one["connections"]): one for one in results["requests"]}
    for (who, connections), post in by_who.items():
        if who != "post":
            continue
        rates = post["rates_per_s"]
        cells = [str(connections), f"**{post['rate_per_s']:,}** ({min(rates):,} to {max(rates):,})"]
        cells += [f"{post[name]:.1f} ms" for name in ("p50_ms", "p99_ms")]
        for other in (by_who["bare", connections], by_who["wrapped", connections]):
            cells += [f"{other['rate_per_s']:,}", f"{post['rate_per_s'] / other['rate_per_s']:.2f}"]
        yield tuple(cells)


def _cpu(results: dict[str, Any]) -> Iterable[tuple[str, ...]]:
    for one in results["cpu_ms_a_message"]:
        shares = (f"{one[name]:.3f}" for name in ("gateway", "sender", "rabbitmq", "redis"))
        yield (str(one["connections"]), *shares)


def _batches(results: dict[str, Any]) -> Iterable[tuple[str, ...]]:
    by_kind = {(one["type"] == JSON, one["messages"]): one for one in results["batches"]}
    for (is_array, messages), array in by_kind.items():
        if is_array:
            cells = (_rate(one) for one in (array, by_kind[False, messages]))
            yield (f"{messages:,}", f"{array['requests']:,}", *cells)


def _asked(results: dict[str, Any]) -> list[str]:
    return [
        f"`GET /sms/{{uuid}}` of settled messages, {one['connections']} connections: {_rate(one)} requests/s,"
        f" p50 {one['p50_ms']:.1f} ms, p99 {one['p99_ms']:.1f} ms."
        for one in results["requests"]
        if one["who"] == "get"
    ]


def _rate(figure: dict[str, Any]) -> str:
    rates = figure["rates_per_s"]
    return f"**{figure['rate_per_s']:,}** ({min(rates):,} to {max(rates):,})"


if __name__ == "__main__":
    sys.exit(main())
