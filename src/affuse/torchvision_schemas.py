"""Lets torchvision's Python part import beside a torch build that its compiled operators do not fit.

PyPI's torchvision is compiled against the CUDA build of torch. Beside a CPU-only torch its operator library does not load,
and `import torchvision` then fails because it registers fake kernels for two operators that nobody declared:
``torchvision::nms`` and ``torchvision::qnms``. timm, lightning and torchmetrics import torchvision and fail with it.
Declaring the two schemas first is enough for models, transforms and all of timm; the operators themselves stay absent, and
calling one is an error. Where torchvision's library loads, nothing is declared. This must run before anything that
imports torchvision, so it is the package's first import.
"""

import ctypes
import importlib.util
from pathlib import Path

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_library: torch.library.Library | None = None  # kept alive: its declarations end with it


def declare_if_needed() -> bool:
    """Declare the two schemas if torchvision's operator library cannot load; True if they were declared."""
    global _library
    if _library is not None:
        return True
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or hasattr(torch.ops.torchvision, "nms"):
        return False
    libraries = sorted(Path(spec.origin).parent.glob("_C*"))
    try:
        for path in libraries:
            ctypes.CDLL(str(path))
        if libraries:
            return False
    except OSError:
        pass
    _library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS.values():
        _library.define(schema)
    return True
