"""Shapes and types of public signatures are enforced while the tests run."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

hook = install_import_hook("affuse", "beartype.beartype")
import affuse  # noqa: E402, F401  (imported under the hook)

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("AFFUSE_DATA", ROOT / ".." / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real recordings; tests that need it skip where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no real recordings at {DATA}; set AFFUSE_DATA")
    return DATA
