"""The dashboard: one page at `/`, from the files in `static/`. It uses the REST API and `WS /events`, as any client.

The files are read when the gateway starts, so that no request reads the file system and no path leads out of the
folder. They hold no secrets and need no API key: the page gets its data from the API, with a key.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from common.counters import COUNTERS
from common.web.problems import Problem

INDEX = "index.html"

# Not from the system's list of media types, which differs between systems.
MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_PLAIN = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the page. The browser caches it, and revalidates it by its tag.

    Attributes:
        content: The file.
        media_type: For Content-Type.
        tag: For ETag.
    """

    content: bytes
    media_type: str
    tag: str

    @classmethod
    def of(cls, name: str, content: bytes) -> "Asset":
        """A file of this name and content."""
        media_type = MEDIA_TYPES.get(name.rpartition(".")[2], _PLAIN)
        return cls(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:20]}"')

    def answer(self, request: Request) -> Response:
        """The file, or 304 if the browser has it."""
        headers = {"ETag": self.tag, "Cache-Control": "no-cache", "Content-Type": self.media_type}
        known = (
            tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")
        )
        if self.tag in known:
            del headers["Content-Type"]
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers=headers)


class Dashboard:
    """Serves the page."""

    def __init__(self) -> None:
        static = _tree(files(__name__) / "static")
        self._assets = {path: Asset.of(file.name, file.read_bytes()) for path, file in static}
        self._assets["counters.js"] = Asset.of("counters.js", _counters_module())

    def routes(self) -> list[BaseRoute]:
        """`/` and `/assets/...`, for GET and HEAD."""
        return [Route("/", self._index), Route("/assets/{path:path}", self._asset)]

    async def _index(self, request: Request) -> Response:
        return self._assets[INDEX].answer(request)

    async def _asset(self, request: Request) -> Response:
        asset = self._assets.get(request.path_params["path"])
        if asset is None:
            return Problem(404, "the dashboard has no such file").response()
        return asset.answer(request)


def _counters_module() -> bytes:
    """The list of counters as a JavaScript module, made from common/counters.py."""
    shown = [{"name": counter.name, "label": counter.label} for counter in COUNTERS]
    return f"export const COUNTERS = {json.dumps(shown)};\n".encode()


def _tree(folder: Traversable, above: str = "") -> Iterator[tuple[str, Traversable]]:
    """Every file below a folder, with its path from there."""
    for entry in folder.iterdir():
        path = above + entry.name
        if entry.is_dir():
            yield from _tree(entry, path + "/")
        else:
            yield path, entry
