"""Camera recordings that are broken, lying or of another kind give one clear line, or clips that say what is missing."""

import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from affuse import AffuseError
from affuse.signals.cameras import CameraClip, CameraSpec, camera_windows, read_cameras
from affuse.signals.depth import DepthSpec
from affuse.signals.timed_frames import open_frames, read_picture

SPEC = CameraSpec(fps={"rgb": 10.0, "infrared": 10.0, "depth": 10.0})
MOMENTS = [0, 100_000, 200_000]
STUB = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def one_line(call: Callable[[], Any], *words: str) -> None:
    with pytest.raises(AffuseError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    assert not [word for word in words if word not in message], message


def read(name: str, path: Path, spec: CameraSpec = SPEC) -> CameraClip:
    return read_cameras({name: path}, MOMENTS, spec)[name]


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def video(path: Path, codec: str = "libx264", frames: int = 30, gop: int = 6) -> Path:
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.codec_context.gop_size = gop
        for _ in range(frames):
            image = rng.integers(0, 255, (32, 48, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def depth_png(path: Path, value: int = 900, dtype: type = np.uint16) -> Path:
    cv2.imwrite(str(path), np.full((20, 30), value, dtype))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".png", ".npy", ".pgm", ".jpg", ".mkv", ""])
@pytest.mark.parametrize("content", [b"", STUB, b"\0" * 4000], ids=["empty", "stub", "zeros"])
def test_a_file_that_holds_no_frames_is_one_error(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"camera{suffix}"
    path.write_bytes(content)
    for name in ("rgb", "depth"):
        one_line(lambda name=name: read(name, path), str(path))


def test_a_missing_file_an_empty_folder_and_a_nameless_picture_are_named(tmp_path: Path) -> None:
    one_line(lambda: read("rgb", tmp_path / "none.mp4"), "none.mp4", "no such file")
    folder = tmp_path / "folder"
    folder.mkdir()
    one_line(lambda: read("depth", folder), "folder", "no picture")
    depth_png(folder / "depth.png")
    one_line(lambda: read("depth", folder), "depth.png", "number")
    (folder / "depth.png").rename(folder / "1.png")
    depth_png(folder / "001.png")
    one_line(lambda: read("depth", folder), "1.png", "keep one")


def test_a_number_beyond_all_time_is_refused(tmp_path: Path) -> None:
    depth_png(tmp_path / f"{'9' * 40}.png")
    for names in ("number", "seconds", "microseconds"):
        one_line(lambda names=names: read("depth", tmp_path, CameraSpec(fps=SPEC.fps, frame_names=names)), "too large")


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".png", png_header(100_000, 100_000)),
        (".png", png_header(0, 5)),
        (".pgm", b"P5\n100000 100000\n65535\n"),
        (".pgm", b"P5\n-3 5\n65535\n"),
        (".jpg", b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03" + b"\0" * 20 + b"\xff\xd9"),
    ],
)
def test_a_header_of_huge_dimensions_is_refused_before_room_is_made(
    tmp_path: Path, suffix: str, content: bytes
) -> None:
    path = tmp_path / f"huge{suffix}"
    path.write_bytes(content)
    tracemalloc.start()
    one_line(lambda: read("depth", path), "huge", "pixels")
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_an_array_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "depth.npy"
    header = b"{'descr': '<u2', 'fortran_order': False, 'shape': (1000000, 4000, 4000), }".ljust(117) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 100)
    one_line(lambda: read("depth", path), "depth.npy")


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("depth", np.array([{"a": 1}], object), ["not a whole"]),
        ("depth", np.zeros((2, 3, 4, 5), np.uint16), ["(2, 3, 4, 5)"]),
        ("depth", np.zeros((0, 3, 4), np.uint16), ["(0, 3, 4)"]),
        ("depth", np.zeros((3, 4), bool), ["bool"]),
        ("depth", np.zeros((3, 4, 4), np.uint8), ["8-bit", "coded_far_m"]),
        ("infrared", np.zeros((3, 4, 4), np.float64), ["float64", "16"]),
        ("rgb", np.zeros((3, 4, 4), np.uint8), ["(h, w, 3)"]),
        ("rgb", np.zeros((3, 4, 4, 3), np.float32), ["8-bit"]),
    ],
)
def test_an_array_of_another_kind_is_one_error(tmp_path: Path, name: str, array: np.ndarray, words: list[str]) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    one_line(lambda: read(name, tmp_path / "a.npy"), "a.npy", *words)


def test_eight_bits_where_sixteen_are_wanted_name_the_file_and_the_remedy(tmp_path: Path) -> None:
    still, coded = depth_png(tmp_path / "still.png", 90, np.uint8), video(tmp_path / "kinect_depth.mp4")
    (tmp_path / "frames").mkdir()
    depth_png(tmp_path / "frames" / "0.png", 90, np.uint8)
    for path in (still, coded, tmp_path / "frames"):
        one_line(lambda path=path: read("depth", path), str(path), "coded_far_m")
    spec = CameraSpec(depth=DepthSpec(coded_far_m=5.0), fps=SPEC.fps)
    assert read("depth", still, spec).images.max() == pytest.approx(90 / 255 * 5)
    assert read("depth", coded, spec).valid.all()


def test_a_picture_in_colour_is_no_depth(tmp_path: Path) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 0] = 200
    cv2.imwrite(str(tmp_path / "1.png"), image)
    for path in (tmp_path / "1.png", tmp_path):
        one_line(lambda path=path: read("depth", path), "1.png", "colour")


@pytest.mark.parametrize("suffix", [".png", ".pgm", ".jpg"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.97])
def test_a_picture_cut_short_is_an_error_alone_and_a_marked_frame_in_a_folder(
    tmp_path: Path, suffix: str, share: float
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 60), dtype=np.uint8)
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}{suffix}"), noise if suffix == ".jpg" else noise.astype(np.uint16) * 9)
    cut = tmp_path / f"1{suffix}"
    cut.write_bytes(cut.read_bytes()[: int(cut.stat().st_size * share)])
    one_line(lambda: read("infrared", cut), cut.name)
    clip = read("infrared", tmp_path)
    assert clip.valid.tolist() == [True, False, True] and clip.lost == 1
    assert not clip.images[1].any() and np.array_equal(clip.images[0], clip.images[2])


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([".png", ".pgm", ".jpg", ".npy"]), st.data())
def test_changed_bytes_give_a_picture_or_one_error(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    whole = tmp_path / f"whole{suffix}"
    if not whole.exists():
        image = np.random.default_rng(0).integers(1, 250, (12, 17)).astype(np.uint8 if suffix == ".jpg" else np.uint16)
        np.save(whole, image) if suffix == ".npy" else cv2.imwrite(str(whole), image)
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), 300) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"changed{suffix}"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        image = read_picture(path, True) if suffix != ".npy" else next(_pictures(path))
    except AffuseError as error:
        assert "\n" not in str(error) and "changed" in str(error)
    else:
        assert image.ndim == 2 and image.size > 0


def test_a_header_of_numpy_that_is_no_python_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "changed.npy"
    np.save(path, np.ones((3, 4, 5), np.uint16))
    path.write_bytes(path.read_bytes().replace(b"'descr'", b'"""escr\''))
    one_line(lambda: next(_pictures(path)), path.name)


def _pictures(path: Path) -> Any:
    for frame in open_frames(path, gray=True, fps=10.0).frames(0):
        assert frame.load is not None
        yield frame.load()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([("v.avi", "mpeg4"), ("v.mp4", "libx264"), ("v.mkv", "libx264")]), st.data())
def test_a_damaged_video_gives_a_clip_that_marks_its_losses_or_one_error(
    tmp_path: Path, form: tuple[str, str], data: st.DataObject
) -> None:
    whole = tmp_path / form[0]
    if not whole.exists():
        video(whole, form[1])
    content = bytearray(whole.read_bytes())
    moments = [100_000 * i for i in range(30)]
    true = read_cameras({"rgb": whole}, moments, SPEC)["rgb"]
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(1, len(content)))]
    else:
        start = data.draw(st.integers(0, len(content) - 1))
        content[start : start + 200] = b"\xff" * len(content[start : start + 200])
    path = tmp_path / f"damaged_{form[0]}"
    path.write_bytes(content)
    try:
        clip = read_cameras({"rgb": path}, moments, SPEC)["rgb"]
    except AffuseError as error:
        assert "\n" not in str(error) and "damaged" in str(error)
        return
    assert (clip.times_us <= np.array(moments)).all() and not clip.images[~clip.valid].any()
    assert true.lost == 0 and clip.images.shape[0] == len(moments)


def test_a_video_cut_short_has_frames_up_to_the_cut_and_marks_the_rest(tmp_path: Path) -> None:
    whole = video(tmp_path / "whole.mkv")
    path = tmp_path / "cut.mkv"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    moments = [100_000 * i for i in range(30)]
    clip, true = (read_cameras({"rgb": p}, moments, SPEC)["rgb"] for p in (path, whole))
    number = int(clip.valid.sum())
    assert 8 <= number <= 20 and clip.valid[:number].all() and clip.lost == 30 - number
    assert np.array_equal(clip.images[:number], true.images[:number])
    windows = list(camera_windows({"rgb": path}, SPEC, frames=4, step_us=100_000, hop_us=400_000))
    assert 2 <= len(windows) <= 5


def test_a_video_of_an_unknown_codec_is_one_error(tmp_path: Path) -> None:
    path = video(tmp_path / "v.mp4")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzz9"))
    one_line(lambda: read("rgb", path), "v.mp4", "convert")


def test_a_moment_beyond_all_time_is_outside_of_the_recording(tmp_path: Path) -> None:
    path = video(tmp_path / "short.mp4")
    clip = read_cameras({"rgb": path}, [2**62], SPEC)["rgb"]
    assert clip.valid.tolist() == [False] and clip.images.shape[-1] == 3


def test_a_video_that_changes_its_size_gives_one_clip(tmp_path: Path) -> None:
    for number, size in enumerate([(20, 30), (20, 30), (40, 20)]):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full(size, 800, np.uint16))
    clip = read("depth", tmp_path)
    assert clip.images.shape == (3, 20, 30, 1) and clip.valid.all()
    np.testing.assert_allclose(clip.images, 0.8, rtol=1e-5)
