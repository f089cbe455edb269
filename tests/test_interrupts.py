"""Ctrl-C at any moment of a command's first seconds, most of which go into imports."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from affuse_cli import interrupts_end_the_process

RECIPE = Path(__file__).parents[1] / "recipes" / "emoe" / "talk.yaml"
# What the console script does, once the interpreter is up: before that there is nobody to hear.
SCRIPT = "import affuse_cli, sys; print('here', flush=True); sys.exit(affuse_cli.main())"


def interrupted(words: list[str], delay_s: float) -> tuple[int, str]:
    """Exit code and standard error of a command that gets SIGINT so long after it began."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A shell without job control starts what runs in its background with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        threading.Timer(delay_s, process.send_signal, [signal.SIGINT]).start()
        _, errors = process.communicate(timeout=120)
    return process.returncode, errors


@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.5, 4.0])
def test_ctrl_c_while_a_fit_is_starting_is_answered_by_one_line(delay_s: float, tmp_path: Path) -> None:
    code, errors = interrupted(["fit", str(RECIPE), "--out", str(tmp_path / "run"), "--quiet"], delay_s)
    assert code == 130
    assert len(errors.splitlines()) == 1
    assert errors.startswith("affuse: interrupted")


def test_a_handler_of_somebody_else_is_left_alone_during_imports() -> None:
    def own(number: int, frame: object) -> None:
        raise AssertionError("not called")

    before = signal.signal(signal.SIGINT, own)
    try:
        with interrupts_end_the_process():
            assert signal.getsignal(signal.SIGINT) is own
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)


def test_after_the_imports_ctrl_c_is_an_exception_again() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with interrupts_end_the_process():
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
