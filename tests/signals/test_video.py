import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from affuse import AffuseError
from affuse.signals.events import read_events
from affuse.signals.video import read_video, simulate_events_of_video

# The matrix of a track header (ISO 14496-12, 8.3.2): x' = -y + height, y' = x.
ONE = 1 << 16
TURNED_CLOCKWISE = (0, ONE, 0, -ONE, 0, 0, 48 * ONE, 0, 1 << 30)


def write_video(path: Path, frames: int = 20, fps: int = 25) -> Path:
    """A grey video that gets brighter, with a white bar that moves."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.gop_size = 4
        for number in range(frames):
            image = np.full((48, 64, 3), 40 + 5 * number, np.uint8)
            image[:, 2 * number : 2 * number + 6] = 250
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "bar.mp4")


def test_frames_come_in_order_with_their_times(video: Path) -> None:
    reader = read_video(video)
    frames = list(reader)
    assert reader.fps == 25 and reader.dropped == 0
    assert [frame.time_us for frame in frames] == [40_000 * i for i in range(20)]
    assert all(frame.image.shape == (48, 64, 3) and frame.image.dtype == np.uint8 for frame in frames)
    corner = [int(frame.image[4, 60].mean()) for frame in frames]
    assert corner == sorted(corner) and corner[0] == pytest.approx(40, abs=6)


def test_stride_and_max_frames_thin_and_stop(video: Path) -> None:
    assert [frame.time_us for frame in read_video(video, stride=5)] == [0, 200_000, 400_000, 600_000]
    assert [frame.time_us for frame in read_video(video, max_frames=2, stride=3)] == [0, 120_000]
    with pytest.raises(AffuseError, match="stride"):
        read_video(video, stride=0)


def test_a_video_that_a_phone_took_upright_is_turned(video: Path, tmp_path: Path) -> None:
    content = video.read_bytes()
    start = content.index(b"tkhd")
    as_is, turned = (struct.pack(">9i", *m) for m in ((ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30), TURNED_CLOCKWISE))
    path = tmp_path / "phone.mp4"
    path.write_bytes(content[:start] + content[start:].replace(as_is, turned, 1))
    image = next(iter(read_video(path))).image
    assert image.shape == (64, 48, 3)
    assert np.array_equal(image, np.rot90(next(iter(read_video(video))).image, -1))  # the bar at the left is now on top
    assert image[2].mean() > 200 > 100 > image[-2].mean()


def test_a_video_can_be_left_before_its_end(video: Path) -> None:
    with read_video(video) as reader:
        assert next(iter(reader)).time_us == 0


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "empty"), (b"no video at all" * 50, "not a video"), (b"\0" * 5000, "not a video")]
)
def test_a_file_that_is_no_video_is_one_clear_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "wrong.mp4"
    path.write_bytes(content)
    with pytest.raises(AffuseError, match=message):
        read_video(path)


def test_a_missing_file_and_a_folder_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(AffuseError, match="no such file"):
        read_video(tmp_path / "nothing.mp4")
    with pytest.raises(AffuseError, match="not a file"):
        read_video(tmp_path)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_truncated_video_gives_some_frames_or_one_clear_error(tmp_path: Path, share: float) -> None:
    whole = write_video(tmp_path / "whole.avi").read_bytes()
    path = tmp_path / "cut.avi"
    path.write_bytes(whole[: int(len(whole) * share)])
    try:
        frames = list(read_video(path))
    except AffuseError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert 0 < len(frames) <= 20


def test_frames_that_cannot_be_decoded_are_counted(tmp_path: Path) -> None:
    content = bytearray(write_video(tmp_path / "whole.avi", frames=40).read_bytes())
    places = [i for i in range(len(content) - 4) if content[i : i + 4] == b"\0\0\1\xb6"]  # each coded picture's start
    for place in places[10:20]:
        content[place : place + 60] = b"\xff" * 60
    path = tmp_path / "damaged.avi"
    path.write_bytes(content)
    reader = read_video(path)
    frames = list(reader)
    assert 20 <= len(frames) < 40 and reader.dropped >= 1


def test_a_video_without_pictures_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(AffuseError, match="no video stream"):
        read_video(path)


def test_events_of_a_video_are_written_and_read_back(video: Path, tmp_path: Path) -> None:
    target = tmp_path / "bar.npz"
    events = simulate_events_of_video(video, target, threshold=0.3, seed=1)
    assert len(events) > 100 and (events.width, events.height) == (64, 48)
    again = read_events(target)
    assert np.array_equal(again.t_us, events.t_us) and np.array_equal(again.p, events.p)
    with pytest.raises(AffuseError, match="npz"):
        simulate_events_of_video(video, tmp_path / "bar.txt")


@pytest.mark.parametrize(
    ("name", "seconds"), [("single_face.mp4", 2.4), ("no_face.mp4", 3.95), ("noface_face.mov", 6.38)]
)
def test_real_videos_are_read_whole(real_data: Path, name: str, seconds: float) -> None:
    reader = read_video(real_data / "faces" / name)
    times_us = [frame.time_us for frame in reader]
    assert times_us[-1] / 1e6 == pytest.approx(seconds, abs=0.1) and reader.dropped == 0
