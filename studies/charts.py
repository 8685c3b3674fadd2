"""What studies need and no service does: optional packages, asked for before the work begins, and charts on disk."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INSTALL = 'pip install ".[study]"'


def needed(*modules: str) -> None:
    """Returns if these modules can be imported. Raises UsageError, which names those missing and how to get them."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(f"{' and '.join(missing)} not installed: {INSTALL}, or make setup")


def save_chart(
    figure: "Figure", folder: Path, name: str, kinds: Sequence[str] = ("png", "svg")
) -> list[Path]:
    """Writes a chart as `name`.png and `name`.svg, the same bytes for the same chart. Raises OSError."""
    from matplotlib import rc_context

    files = {kind: folder / f"{name}.{kind}" for kind in kinds}
    with rc_context({"svg.hashsalt": name}):
        for kind, file in files.items():
            # Else an SVG tells when, and by which Matplotlib, it was drawn.
            metadata = {"Date": None, "Creator": None} if kind == "svg" else None
            figure.savefig(file, dpi=150, metadata=metadata)
    return list(files.values())
