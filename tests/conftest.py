"""Shapes and types of public signatures are enforced while the tests run."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

hook = install_import_hook("affuse", "beartype.beartype")
import affuse  # noqa: E402, F401  (imported under the hook)

settings.register_profile("here", deadline=None)  # how long a case takes says more of the machine than of the code
settings.load_profile("here")

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("AFFUSE_DATA", ROOT / ".." / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real recordings; tests that need it skip where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no real recordings at {DATA}; set AFFUSE_DATA")
    return DATA


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Runs a fit that is interrupted in its third epoch, and expects that it says so."""
    from affuse.fitting import Fitting

    def run(fitting: Callable[[], object]) -> None:
        step = Fitting.training_step

        def interrupted(self: Fitting, batch: Any, index: int) -> Any:
            if self.current_epoch == 2 and index == 1:
                raise KeyboardInterrupt
            return step(self, batch, index)

        with monkeypatch.context() as patch:
            patch.setattr(Fitting, "training_step", interrupted)
            with pytest.raises(KeyboardInterrupt):
                fitting()

    return run
