"""MCO-E Net: expressions of a single eye, from an RGB camera and an event camera."""

from affuse.systems.mco_e.config import MCOEConfig
from affuse.systems.mco_e.system import MCOENet

__all__ = ["MCOEConfig", "MCOENet"]
