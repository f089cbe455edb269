"""MoME + HTL: one expert a camera, a gate that reads what the experts say, and tokens that teach one another."""

from affuse.systems.mome.config import MoMEConfig
from affuse.systems.mome.system import MoME

__all__ = ["MoME", "MoMEConfig"]
