"""What the pages of docs/ show of recorded figures: tables between markers, and under which conditions they came."""

from typing import Any


def filled(page: str, begin: str, end: str, text: str) -> str:
    """A page with a text between its markers. Raises ValueError unless both are there, the first once."""
    before, *rest = page.split(begin)
    found, after = rest[0].partition(end)[1:] if len(rest) == 1 else ("", "")
    if not found:
        raise ValueError(f"no {begin} … {end} in the page")
    return f"{before}{begin}\n{text}\n{end}{after}"


def conditions(results: dict[str, Any]) -> str:
    """When, where and with what it was measured, in a sentence."""
    machine, versions = results["machine"], results["versions"]
    packages = ", ".join(f"{name} {number}" for name, number in versions.items())
    return (
        f"Measured {results['measured_at']} on {machine['cores']} cores ({machine['cpu']}),"
        f" {machine['memory_gb']:g} GB, {machine['system']}, with everything on that machine; {packages}."
    )
