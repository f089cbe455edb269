"""TAAF-SNN: spiking networks for several senses, weighed step by step and learned in balance."""

from affuse.systems.taaf.config import Encoder, TAAFConfig
from affuse.systems.taaf.system import TAAF

__all__ = ["TAAF", "Encoder", "TAAFConfig"]
