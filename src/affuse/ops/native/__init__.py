"""Native code for the CPU: C functions over raw pointers, without PyTorch's headers.

All ``*.cpp`` files of this folder are compiled into one optional extension module, ``_native`` (see ``setup.py``). Where
there is no compiler the package installs without it, and every operation takes its pure PyTorch form.

**Adding a function.** Put it in a ``.cpp`` file of this folder, as ``AFFUSE_EXPORT void affuse_NAME(const float* x, int64_t
size, int64_t threads)`` (``native.h``), with pointers, ``int64_t``, ``float`` and ``double`` as its only arguments. It must
not throw, nor touch Python: it runs without the GIL. Memory is the caller's; so are checks of shapes, types and strides.
Rebuild in place with ``pip install --no-deps --no-build-isolation -e .``.

**Calling it.** ::

    from affuse.ops import native

    ok, why = native.available()  # why: what is missing and how to mend it, or what was found
    scale = native.function("affuse_scale", "ppil")  # p: pointer or None, i: int64, f: float, d: double
    scale(x.data_ptr(), None, x.numel(), native.threads(x.numel(), 2**19))

The tensors must stay alive, and be contiguous or passed with their strides, for as long as the call takes.

**Vector width.** Files are compiled for the plain instruction set of the platform. Code for wider vectors is compiled as an
instance of its own (``#pragma GCC target`` after all includes) and chosen at run time by what the processor supports, so
that one wheel runs everywhere. `instructions` says which one is used; ``AFFUSE_VECTORS`` (avx512, avx2, plain) asks for a
narrower one, for tests and measurements.

**Threads.** `threads` gives PyTorch's number of threads (``torch.set_num_threads``, ``OMP_NUM_THREADS``) where there is
enough to do, else one. They are PyTorch's own where its OpenMP runtime is GNU's, as in its wheels for Linux; elsewhere, and in
forked processes, plain threads made for one call (``parallel`` in ``native.h``).
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch

from affuse.types import AffuseError

KINDS = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float, "d": ctypes.c_double}


@functools.cache
def _library() -> tuple[ctypes.CDLL | None, str]:
    try:
        module = importlib.import_module(f"{__name__}._native")
        library = ctypes.CDLL(str(module.__file__))
    except (ImportError, OSError) as error:
        return None, f"the native extension is not built ({error}): install a C++ compiler, then reinstall affuse"
    library.affuse_instructions.restype = ctypes.c_char_p
    library.affuse_use_team.argtypes = [ctypes.c_void_p]
    library.affuse_use_team(team_of_pytorch())
    return library, f"the native extension is built; it uses {library.affuse_instructions().decode()} instructions here"


@torch.compiler.assume_constant_result  # so that a compiler need not trace how the library is loaded
def available() -> tuple[bool, str]:
    """Whether native code can be called, and what was found or what is missing."""
    library, why = _library()
    return library is not None, why


def instructions() -> str:
    """The vector instructions in use: ``avx512``, ``avx2`` or ``plain``.

    Raises:
        AffuseError: there is no native code here.
    """
    library, why = _library()
    if library is None:
        raise AffuseError(why)
    return library.affuse_instructions().decode()


def team_of_pytorch() -> ctypes.c_void_p | None:
    """How PyTorch's OpenMP runtime starts threads, where it is GNU's and the system's loader shows it; else None."""
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p)
    except (AttributeError, OSError, TypeError):
        return None


@functools.cache
def function(name: str, arguments: str, returns: str = "") -> Callable[..., Any]:
    """A C function of the extension.

    Args:
        name: the exported name.
        arguments: one letter for each argument: p pointer or None, i int64, f float, d double.
        returns: letter of the value that comes back; empty for none.

    Raises:
        AffuseError: there is no native code here, or it is older than this call.
    """
    library, why = _library()
    if library is None:
        raise AffuseError(why)
    try:
        found = getattr(library, name)
    except AttributeError as error:
        raise AffuseError(f"the native extension has no {name}: it is out of date; reinstall affuse") from error
    found.argtypes = [KINDS[letter] for letter in arguments]
    found.restype = KINDS[returns] if returns else None
    return found


def threads(work: int, enough: int) -> int:
    """PyTorch's number of threads where `work` is at least `enough`, else one.

    Args:
        work: how much there is to do, in a unit of the caller's.
        enough: how much of it takes so long (about half a millisecond) that making threads for it pays.
    """
    return torch.get_num_threads() if work >= enough else 1
