"""Entry of the console script ``affuse``. It stands beside the package, whose import alone loads torch and takes seconds: from
here Ctrl-C is heard, and answered by one line, from the first moment on.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130  # what a shell gives for a command that SIGINT ended


@contextmanager
def interrupts_end_the_process() -> Iterator[None]:
    """While modules are being imported, Ctrl-C ends the process at once, with one line and exit code 130.

    A KeyboardInterrupt would not do: raised inside an import it may be swallowed by a callback of the import system or by
    an extension module, and is printed there. Nothing has been written yet that would need to be put away. Where Ctrl-C is
    ignored or has a handler of somebody else's, and outside the main thread, nothing changes.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: object) -> None:
    # Not print: the interrupt may have come in the middle of one.
    os.write(2, b"affuse: interrupted\n")
    os._exit(INTERRUPTED)


def main() -> int:
    """Run one command of `affuse.cli`; the exit code."""
    try:
        with interrupts_end_the_process():
            from affuse import cli
        return cli.main()
    except KeyboardInterrupt:
        print("affuse: interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
