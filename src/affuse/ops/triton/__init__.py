"""Kernels in Triton, for NVIDIA GPUs.

Triton comes with PyTorch's builds for GPUs and is no dependency: nothing imports it before a kernel is asked for. With
``TRITON_INTERPRET=1`` in the environment from the start, Triton's interpreter runs the same kernels on the CPU, slowly: for
tests.
"""

from __future__ import annotations

import importlib.util
import os

import torch


def interpreted() -> bool:
    """Whether Triton's interpreter is asked for, so that kernels take tensors on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@torch.compiler.assume_constant_result  # so that a compiler need not trace how modules are found
def available() -> tuple[bool, str]:
    """Whether Triton's kernels can be called, and what was found or what is missing."""
    if importlib.util.find_spec("triton") is None:
        return False, "Triton is not installed: install a GPU build of PyTorch, or: pip install triton (Linux only)"
    if interpreted():
        return True, "Triton's interpreter runs its kernels on the CPU (TRITON_INTERPRET=1)"
    if not torch.cuda.is_available():
        return False, "Triton's kernels need an NVIDIA GPU, and PyTorch finds none: use another form"
    if torch.version.hip is not None:
        return False, "Triton's kernels are for NVIDIA GPUs, and this PyTorch is built for AMD's: use another form"
    return True, f"Triton's kernels run on {torch.cuda.get_device_name()}"
