"""Events, all that a caller needs of them: the type, files of many formats, and the simulator that makes them of video."""

from affuse.signals.event_readers import describe, read_events, stream_events, write_events
from affuse.signals.event_simulation import linear_luminance, simulate_events
from affuse.signals.event_stream import Events

__all__ = ["Events", "describe", "linear_luminance", "read_events", "simulate_events", "stream_events", "write_events"]
