"""EMOE: modality experts for sentiment, emotion and intent, weighed sample by sample."""

from affuse.systems.emoe.config import EMOEConfig
from affuse.systems.emoe.system import EMOE

__all__ = ["EMOE", "EMOEConfig"]
