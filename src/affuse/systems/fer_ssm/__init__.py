"""FER-SSM: expressions of faces in video, by facial attention in each frame and selective state space models over time."""

from affuse.systems.fer_ssm.config import FERSSMConfig
from affuse.systems.fer_ssm.system import FERSSM

__all__ = ["FERSSM", "FERSSMConfig"]
