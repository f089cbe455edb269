"""Every frame that a video announces, in order of time, with the ones that are lost among them, in bounded memory.

A codec conceals damage: it repeats, smears and goes on predicting from what it made up. To mark such frames they are followed
from packet to frame. Each packet promises a frame; it is lost where decoding its packet fails, where the codec says that it
concealed errors, or where no frame comes of it. Frames that are predicted from a damaged one are lost with it: those that are
coded after it, up to the next key frame. As frames are coded in another order than they are shown in (a B-frame stands before
the frame that it is predicted from), a frame is held back until all that were coded before it have come.

Frames that are shown before the key frame of their own group (open groups) are predicted from the group before as well, and
nothing after the key frame from them: where reading starts at such a key frame they cannot be decoded, which harms no other.

AVI stores no times, only the order in which frames are coded: there frames are followed by the number of their packet, and
shown in the order in which they come out of the codec.

Damage that the codec itself does not notice cannot be known here.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import av
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame

MAX_BAD_PACKETS_IN_A_ROW = 256
# Where every packet is a picture, one without a frame was a frame to predict from; other codecs have packets that show nothing.
_ALWAYS_SHOWN = ("h264", "hevc")
_MOST_HELD = 16  # frames; no codec here reorders further


class Coded(NamedTuple):
    """One frame of the stream.

    pts: its time in units of the stream, None where it has none.
    frame: as the codec left it; None: none came.
    whole: False where it is lost: no frame came, or it is damaged, or predicted from one that is.
    """

    pts: int | None
    frame: VideoFrame | None
    whole: bool


class _Place(NamedTuple):
    """Where a frame was coded: its group, which starts with a key frame, and its number within it."""

    group: int
    number: int


class LostFrames:
    """Follows packets to frames; see the head of this file."""

    def __init__(self, codec: str) -> None:
        self._always_shown = codec in _ALWAYS_SHOWN
        self._promised: list[tuple[int, _Place]] = []  # a heap by pts: packets whose frames are still inside the codec
        self._held: deque[tuple[int | None, VideoFrame | None, _Place]] = deque()
        self._bad_from: dict[int, int] = {}  # by group: the first damaged frame in coded order
        self._bad_leading: dict[int, int] = {}  # the same, of those that are shown before their key frame
        self._key_pts: dict[int, int] = {}
        self._last = _Place(0, -1)
        self._last_pts: int | None = None

    def promise(self, packet: Packet) -> None:
        """A packet goes into the codec."""
        if packet.is_keyframe:
            self._last = _Place(self._last.group + 1, -1)
            if packet.pts is not None:
                self._key_pts[self._last.group] = packet.pts
            self._forget()
        self._last = _Place(self._last.group, self._last.number + 1)
        self._last_pts = packet.pts
        if packet.pts is not None and not packet.is_discard:
            heapq.heappush(self._promised, (packet.pts, self._last))

    def failed(self) -> None:
        """The packet that was promised last cannot be decoded."""
        self._damaged(self._last_pts, self._last)

    def came(self, frame: VideoFrame) -> None:
        """A frame comes out of the codec; those of earlier times that have not come are lost."""
        place = self._last
        if frame.pts is not None:
            while self._promised and self._promised[0][0] < frame.pts:
                self._lose_first()
            while self._promised and self._promised[0][0] == frame.pts:
                place = heapq.heappop(self._promised)[1]
        if frame.is_corrupt:
            self._damaged(frame.pts, place)
        self._held.append((frame.pts, frame, place))

    def known(self, *, at_end: bool = False) -> Iterator[Coded]:
        """Frames of which nothing that they are predicted from is outstanding any more."""
        while at_end and self._promised:
            self._lose_first()
        while len(self._promised) > MAX_BAD_PACKETS_IN_A_ROW:
            self._lose_first()
        while self._held and (at_end or len(self._held) > _MOST_HELD or not self._outstanding(self._held[0][2])):
            pts, frame, place = self._held.popleft()
            yield Coded(self._shown_at(pts), frame, frame is not None and not self._spoilt(pts, place))

    def _shown_at(self, pts: int | None) -> int | None:
        return pts

    def _lose_first(self) -> None:
        pts, place = heapq.heappop(self._promised)
        self._held.append((pts, None, place))
        if self._always_shown:
            self._damaged(pts, place)

    def _damaged(self, pts: int | None, place: _Place) -> None:
        first = self._bad_leading if self._leads(pts, place) else self._bad_from
        first[place.group] = min(place.number, first.get(place.group, place.number))

    def _leads(self, pts: int | None, place: _Place) -> bool:
        return pts is not None and pts < self._key_pts.get(place.group, pts)

    def _outstanding(self, place: _Place) -> bool:
        return any(other.group <= place.group and other < place for _, other in self._promised)

    def _spoilt(self, pts: int | None, place: _Place) -> bool:
        after = lambda first: place.number >= first.get(place.group, place.number + 1)  # noqa: E731
        if self._leads(pts, place):
            return after(self._bad_from) or after(self._bad_leading) or place.group - 1 in self._bad_from
        return after(self._bad_from)

    def _forget(self) -> None:
        oldest = self._last.group - MAX_BAD_PACKETS_IN_A_ROW
        for by_group in (self._bad_from, self._bad_leading, self._key_pts):
            by_group.pop(oldest, None)


class LostFramesOfAvi(LostFrames):
    """The same where a packet's time is its place in the file, not when its frame is shown.

    Packets are numbered, and the pts of a frame is the number of its packet. Frames take the times of the packets in the order
    they come in. Times that the file leaves out, the empty chunks of a camera that skipped frames, stay gaps.
    """

    def __init__(self, codec: str) -> None:
        super().__init__(codec)
        self._sent = 0
        self._times: deque[int | None] = deque()  # of what was promised and has not left yet
        self._failed: set[int] = set()
        self._reorders = False
        self._shown_group = 0  # of the key frame that came last

    def promise(self, packet: Packet) -> None:
        packet.pts, self._sent = self._sent, self._sent + 1
        super().promise(packet)
        if not packet.is_discard:
            self._times.append(packet.dts)

    def failed(self) -> None:
        super().failed()
        if self._last_pts is None:
            return
        self._failed.add(self._last_pts)
        # Where frames are reordered, what the codec still holds may belong before this one or after it. After it is taken: such
        # a frame's time may be a few frames too late, which does less harm than one too early.
        if self._reorders:
            self._lose([self._last_pts])

    def came(self, frame: VideoFrame) -> None:
        ours = [one for one in self._promised if frame.pts in (one[0], None)]
        if not ours:
            return  # given up before, or a second frame of one packet
        number, place = min(ours)
        self._reorders |= frame.pict_type == PictureType.B
        self._lose(self._missing(number, frame))
        self._promised.remove((number, place))
        heapq.heapify(self._promised)
        self._failed.discard(number)
        if place.number == 0:
            self._shown_group = place.group
        if place.group > self._shown_group and place.group in self._key_pts:
            number = self._key_pts[place.group] - 1  # shown before its key frame, which a number cannot tell
        if frame.is_corrupt:
            self._damaged(number, place)
        self._held.append((number, frame, place))

    def _missing(self, number: int, frame: VideoFrame) -> list[int]:
        """Of the packets whose frames have not come, those whose frames should have come before this one."""
        inside = sorted(other for other, _ in self._promised if other != number)
        earlier = [other for other in inside if other < number]
        if self._always_shown:
            # What was coded before a key frame is shown before it.
            return [n for n in earlier if frame.key_frame or n in self._failed or number - n > _MOST_HELD]
        # The other codecs of AVI hold back one frame, which the B-frames that are coded after it are shown before.
        return earlier[1:] if frame.pict_type == PictureType.B else [n for n in inside if n != self._last_pts]

    def _lose(self, numbers: list[int]) -> None:
        for number, place in sorted(self._promised):
            if number in numbers:
                self._promised.remove((number, place))
                self._failed.discard(number)
                self._held.append((number, None, place))
                if self._always_shown:
                    self._damaged(number, place)
        heapq.heapify(self._promised)

    def _shown_at(self, pts: int | None) -> int | None:
        return self._times.popleft()


def decode_or_lose(packets: Iterator[Packet], codec: str, container: str) -> Iterator[Coded]:
    """Frames in order of time, lost ones among them; ends where the container breaks off or nothing can be decoded.

    The codec must run in one thread, as with several FFmpeg does not say of a frame that errors in it were concealed, and with
    ``err_detect`` ``explode``, without which it passes over pictures whose headers are damaged.

    Args:
        packets: of one stream, the last one empty.
        codec: FFmpeg's name of it.
        container: FFmpeg's name of the format.
    """
    lost = LostFramesOfAvi(codec) if container == "avi" else LostFrames(codec)
    bad_in_a_row = 0
    while bad_in_a_row <= MAX_BAD_PACKETS_IN_A_ROW:
        try:
            packet = next(packets)
        except (StopIteration, av.error.FFmpegError, OSError):
            break
        if packet.size:  # the last packet is empty: it asks the codec for what it still has
            lost.promise(packet)
        try:
            frames = packet.decode()
        except (av.error.FFmpegError, OSError):
            lost.failed()
            bad_in_a_row += 1
        else:
            bad_in_a_row = 0 if frames else bad_in_a_row
            for frame in frames:
                if isinstance(frame, VideoFrame):
                    lost.came(frame)
        yield from lost.known()
    yield from lost.known(at_end=True)
