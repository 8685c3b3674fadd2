"""Gateway tests see no settings of the tester's, from the environment or from a .env."""

from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.gateway.running")


@pytest.fixture(autouse=True)
def _bare(bare_environment: Path) -> None:
    return
