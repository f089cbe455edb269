"""Events, all that a caller needs of them: the type, files of many formats, and the simulator that makes them of video."""

from affuse.signals.event_simulation import linear_luminance, simulate_events
from affuse.signals.event_stream import Events

__all__ = ["Events", "linear_luminance", "simulate_events"]
