"""GET /openapi.json: the document of all endpoints."""

from collections.abc import Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from common.version import project_version
from common.web.openapi import document
from common.web.operations import Answer, Operation
from common.web.responses import json_response


class Document:
    """The OpenAPI document of these operations and its own."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        described = document([*operations, *self.operations()], project_version())
        self._json = msgspec.json.encode(described)

    def operations(self) -> list[Operation]:
        """The endpoint."""
        return [
            Operation(
                method="GET",
                path="/openapi.json",
                handler=self._show,
                scope=None,
                tag="operation",
                summary="This document",
                answers={200: Answer("OpenAPI 3.1", kind=dict, example={"openapi": "3.1.0"})},
            ),
        ]

    async def _show(self, _: Request) -> Response:
        return json_response(self._json)
