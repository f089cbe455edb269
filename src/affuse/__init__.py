"""affuse reads people from several sensors at once and says why."""

from affuse import torchvision_schemas

torchvision_schemas.declare_if_needed()  # first: lightning, torchmetrics and timm all import torchvision

from affuse.types import AffuseError, Batch, Output, Sample, System, Task  # noqa: E402

__version__ = "0.1.0"
__all__ = ["AffuseError", "Batch", "Output", "Sample", "System", "Task", "__version__"]
