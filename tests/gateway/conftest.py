"""Gateway tests see no settings of the tester's, from the environment or from a .env; and share a browser."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.gateway.browser import launched


@pytest.fixture(autouse=True)
def _bare(bare_environment: Path) -> None:
    return


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One for all tests of a module."""
    async with launched() as browser:
        yield browser
