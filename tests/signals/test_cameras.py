import tracemalloc
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from affuse import AffuseError
from affuse.signals import cameras, timed_frames
from affuse.signals.cameras import CameraSpec, camera_inputs, camera_kind, camera_windows, clip_input, read_cameras
from affuse.signals.depth import DepthSpec
from affuse.signals.video import VideoReader, rgb_image

Paths = dict[str, Path]


def write_frames(
    path: Path,
    images: Sequence[np.ndarray],
    fps: int,
    codec: str = "ffv1",
    kind: str = "gray",
    gop: int = 10,
    options: dict[str, str] | None = None,
    b_frames: int | None = None,
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options=options or {})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = {"rgb24": "yuv420p"}.get(kind, kind)
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = b_frames if b_frames is not None else 2 if codec == "libx264" else 0
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format=kind)))
        container.mux(stream.encode())
    return path


def numbered(count: int, factor: int = 1, dtype: type = np.uint8, size: tuple[int, int] = (16, 24)) -> list[np.ndarray]:
    """Frames that hold their own number, times a factor."""
    return [np.full(size, factor * (index + 1), dtype) for index in range(count)]


@pytest.fixture(scope="module")
def cabin(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """Two seconds: RGB at 25 frames a second, infrared at 10, depth at 5, each frame with its own number in it."""
    folder = tmp_path_factory.mktemp("cabin")
    colour = [np.full((32, 48, 3), 4 * (i + 1), np.uint8) for i in range(50)]
    return {
        "rgb": write_frames(folder / "rgb.mp4", colour, 25, "libx264", "rgb24"),
        "infrared": write_frames(folder / "infrared.mkv", numbered(20), 10),
        "depth": write_frames(folder / "depth.mkv", numbered(10, 100, np.uint16), 5, kind="gray16le"),
    }


def test_each_camera_gives_its_latest_frame_by_each_moment_with_its_true_time(cabin: Paths) -> None:
    clips = read_cameras(cabin, [0, 190_000, 200_000, 1_999_999], CameraSpec())
    assert clips["rgb"].times_us.tolist() == [0, 160_000, 200_000, 1_960_000]
    assert clips["infrared"].times_us.tolist() == [0, 100_000, 200_000, 1_900_000]
    assert clips["depth"].times_us.tolist() == [0, 0, 200_000, 1_800_000]
    assert all(clip.valid.all() and clip.lost == 0 for clip in clips.values())
    assert clips["infrared"].images[:, 0, 0, 0].tolist() == [1, 2, 3, 20]
    np.testing.assert_allclose(clips["depth"].images[:, 0, 0, 0], [0.1, 0.1, 0.2, 1.0], rtol=1e-5)
    np.testing.assert_allclose(clips["rgb"].images.mean((1, 2, 3)), [4, 20, 24, 200], atol=4)
    assert clips["rgb"].images.shape == (4, 32, 48, 3) and clips["rgb"].images.dtype == np.uint8
    assert clips["depth"].images.shape == (4, 16, 24, 1) and clips["depth"].images.dtype == np.float32


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(-300_000, 2_500_000), min_size=1, max_size=6).map(sorted), st.integers(-400_000, 400_000))
def test_no_frame_is_ever_later_than_its_moment_and_none_is_invented(
    cabin: Paths, moments: list[int], offset_us: int
) -> None:
    spec = CameraSpec(offsets_us={"infrared": offset_us}, max_age_us=100_000)
    clip = read_cameras({"infrared": cabin["infrared"]}, moments, spec)["infrared"]
    for moment, time, valid, image in zip(moments, clip.times_us, clip.valid, clip.images, strict=True):
        own = moment - offset_us
        assert valid == (0 <= own < 2_000_000)
        assert time == (100_000 * (own // 100_000) + offset_us if valid else moment)
        assert (image == (own // 100_000 + 1 if valid else 0)).all()


def test_moments_outside_of_the_recording_are_marked_and_empty(cabin: Paths) -> None:
    clip = read_cameras(cabin, [-1, 0, 2_000_000], CameraSpec())["rgb"]
    assert clip.valid.tolist() == [False, True, False] and clip.lost == 2
    assert clip.times_us.tolist() == [-1, 0, 2_000_000] and not clip.images[[0, 2]].any()


def test_a_camera_that_hangs_is_not_believed_for_longer_than_the_setting(tmp_path: Path) -> None:
    for number in (1, 2, 3, 20, 21):
        cv2.imwrite(str(tmp_path / f"{number * 100_000}.png"), np.full((8, 8), number, np.uint8))
    moments = [300_000, 540_000, 560_000, 1_990_000, 2_000_000]
    read = lambda **settings: read_cameras(  # noqa: E731
        {"infrared": tmp_path}, moments, CameraSpec(frame_names="microseconds", **settings)
    )["infrared"].valid.tolist()
    assert read() == [True, True, False, False, True]
    assert read(max_age_us=5_000_000) == [True] * 5


def test_the_clock_offset_of_a_camera_moves_it_on_the_common_clock(cabin: Paths) -> None:
    clips = read_cameras(cabin, [500_000], CameraSpec(offsets_us={"infrared": 450_000, "depth": -1_000_000}))
    assert clips["rgb"].times_us.tolist() == [480_000]
    assert clips["infrared"].times_us.tolist() == [450_000] and clips["infrared"].images.max() == 1
    assert clips["depth"].times_us.tolist() == [400_000] and clips["depth"].images.max() == pytest.approx(0.8)


def test_a_late_moment_is_found_by_seeking_and_is_the_same_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 60, (200, 32, 48, 3))
    images = [(noise[i] + i).astype(np.uint8) for i in range(200)]
    for name, codec in (
        ("long.mp4", "libx264"),
        ("long.avi", "mpeg4"),
        ("long.mkv", "libx264"),
        ("long.ts", "libx264"),
    ):
        path = write_frames(tmp_path / name, images, 25, codec, "rgb24", gop=20)
        moments = [7_000_000, 7_050_000, 7_900_000]
        sought = read_cameras({"rgb": path}, moments, CameraSpec())["rgb"]
        first = next(VideoReader(path).timed(7_000_000)).time_us
        with monkeypatch.context() as forward:
            forward.setattr(VideoReader, "_seek", lambda *_: None)
            whole = read_cameras({"rgb": path}, moments, CameraSpec())["rgb"]
            assert next(VideoReader(path).timed(7_000_000)).time_us == 0
        assert sought.valid.all() and np.array_equal(sought.times_us, whole.times_us), name
        assert np.array_equal(sought.images, whole.images), name
        assert name == "long.ts" or 5_000_000 < first <= 7_000_000


def moving(count: int) -> list[np.ndarray]:
    """Frames of which no two are alike."""
    texture = np.random.default_rng(0).integers(0, 255, (32, 48 + 2 * count, 3), dtype=np.uint8)
    return [np.ascontiguousarray(texture[:, 2 * i : 2 * i + 48]) for i in range(count)]


def rgb_by_time(path: Path, start_us: int = 0) -> dict[int, np.ndarray | None]:
    return {
        decoded.time_us: None if decoded.frame is None else rgb_image(decoded.frame)
        for decoded in VideoReader(path).timed(start_us)
    }


@pytest.mark.parametrize(
    ("name", "codec", "b_frames"),
    [
        ("a.mpg", "mpeg1video", 0),
        ("a.mpg", "mpeg1video", 2),
        ("a.mpeg", "mpeg2video", 0),
        ("a.ts", "libx264", 0),
        ("a.ts", "libx264", 2),
        ("a.ts", "mpeg2video", 2),
        ("a.avi", "libx264", 2),
        ("a.avi", "mpeg4", 2),
    ],
)
def test_from_any_moment_on_frames_are_those_of_the_whole_video(
    tmp_path: Path, name: str, codec: str, b_frames: int
) -> None:
    path = write_frames(tmp_path / name, moving(90), 25, codec, "rgb24", gop=12, b_frames=b_frames)
    whole = rgb_by_time(path)
    # FFmpeg gives a few frames of a program stream the time of their neighbour.
    assert len(whole) >= (88 if codec == "mpeg1video" else 90) and all(image is not None for image in whole.values())
    for start_us in (2_010_000, 2_390_000, 2_770_000, 3_150_000, 3_530_000, 3_570_000, 3_590_000, 3_700_000):
        part = rgb_by_time(path, start_us)
        by_then = max(time_us for time_us in whole if time_us <= start_us)
        assert set(part) >= {time_us for time_us in whole if time_us >= by_then}
        for time_us, image in part.items():
            assert np.array_equal(image, whole[time_us]) if time_us >= by_then else image is None or time_us in whole


B_FRAMES = [("libx264", 2, {}), ("libx264", 4, {"x264-params": "b-pyramid=normal:b-adapt=0"}), ("mpeg4", 2, {})]


@pytest.mark.parametrize(("codec", "b_frames", "options"), [*B_FRAMES, ("libx264", 0, {}), ("mpeg4", 0, {})])
def test_avi_has_its_frames_in_order_though_it_stores_no_times(
    tmp_path: Path, codec: str, b_frames: int, options: dict[str, str]
) -> None:
    images = moving(40)
    paths = [
        write_frames(tmp_path / name, images, 25, codec, "rgb24", 12, options, b_frames) for name in ("a.avi", "a.mp4")
    ]
    by_time = [rgb_by_time(path) for path in paths]
    assert list(by_time[0]) == list(by_time[1]) == [40_000 * i for i in range(40)]
    for path in paths:
        reader = VideoReader(path)
        for frame, (time_us, image) in zip(reader, by_time[1].items(), strict=True):
            assert frame.time_us == time_us and np.array_equal(frame.image, image)
        assert reader.dropped == 0
    assert all(np.array_equal(by_time[0][time_us], image) for time_us, image in by_time[1].items())


@pytest.mark.parametrize(("codec", "b_frames", "options"), B_FRAMES)
def test_damage_in_avi_moves_no_frame_to_an_earlier_time(
    tmp_path: Path, codec: str, b_frames: int, options: dict[str, str]
) -> None:
    path = write_frames(tmp_path / "whole.avi", moving(36), 25, codec, "rgb24", 12, options, b_frames)
    whole = rgb_by_time(path)
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    keys = [i for i, (_, frame) in enumerate(VideoReader(path).timed()) if frame is not None and frame.key_frame]
    for coded in range(13, 22):
        place, size = packets[coded]
        content = bytearray(path.read_bytes())
        content[place : place + size] = b"\xff" * size
        (tmp_path / "damaged.avi").write_bytes(content)
        images = rgb_by_time(tmp_path / "damaged.avi")
        assert list(images) == list(whole) and any(image is None for image in images.values())
        recovered = next((key for key in keys if key > coded + 4), 36)
        for index, (time_us, image) in enumerate(images.items()):
            if image is None:
                assert 9 < index < recovered
            elif index < 9 or index >= recovered:
                assert np.array_equal(image, whole[time_us])
            else:
                true_us = [t for t, other in whole.items() if np.array_equal(image, other)]
                assert not true_us or true_us[0] <= time_us <= true_us[0] + 120_000


@pytest.mark.parametrize(("codec", "b_frames"), [("mpeg4", 0), ("mpeg4", 2), ("libx264", 2)])
def test_frames_that_a_camera_skipped_are_a_gap_in_time_in_avi_too(tmp_path: Path, codec: str, b_frames: int) -> None:
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.max_b_frames = b_frames
        for index, image in enumerate(moving(30)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index + (30 if index >= 20 else 0), Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    frames = rgb_by_time(tmp_path / "a.avi")
    times = list(frames)
    assert all(image is not None for image in frames.values())
    assert len(times) == 30 and times[-1] == 59 * 40_000 and times[:19] == [40_000 * i for i in range(19)]
    assert [frame.time_us for frame in VideoReader(tmp_path / "a.avi")] == times


def damage(path: Path, frames: range, start: bytes = b"\0\0\1\xb6") -> Path:
    content = bytearray(path.read_bytes())
    places = [i for i in range(len(content) - 4) if content[i : i + 4] == start]  # each coded picture's start
    for place in places[frames.start : frames.stop]:
        content[place : place + 60] = b"\xff" * 60
    path.write_bytes(content)
    return path


def test_frames_that_cannot_be_decoded_are_marked_up_to_the_next_key_frame(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(40)]
    path = write_frames(tmp_path / "damaged.avi", images, 25, "mpeg4", "rgb24", gop=10)
    moments = [40_000 * i for i in range(40)]
    whole = read_cameras({"rgb": path}, moments, CameraSpec())["rgb"]
    keys = {d.time_us for d in VideoReader(path).timed() if d.frame is not None and d.frame.key_frame}
    assert whole.lost == 0
    clip = read_cameras({"rgb": damage(path, range(13, 15))}, moments, CameraSpec())["rgb"]
    recovered = next(i for i in range(15, 41) if i == 40 or moments[i] in keys)
    assert not clip.valid[13:recovered].any() and not clip.images[13:recovered].any()
    assert clip.valid[:13].all() and clip.valid[recovered:].all() and clip.lost == recovered - 13
    assert np.array_equal(clip.images[clip.valid], whole.images[clip.valid])


def test_what_is_predicted_from_a_damaged_frame_is_marked_even_where_it_is_shown_before_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (32, 200, 3), dtype=np.uint8)
    images = [np.ascontiguousarray(texture[:, 2 * i : 2 * i + 48]) for i in range(36)]
    path = write_frames(tmp_path / "whole.mp4", images, 25, "libx264", "rgb24", gop=12)
    moments = [40_000 * i for i in range(36)]
    true = read_cameras({"rgb": path}, moments, CameraSpec())["rgb"]
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size, p.pts, p.dts) for p in container.demux(video=0) if p.size]
    assert [p[2] for p in packets] != sorted(p[2] for p in packets)  # B-frames: coded in another order than shown
    affected = 0
    for pos, size, _, _ in packets[12:24]:
        content = bytearray(path.read_bytes())
        content[pos + 6 : pos + size] = rng.integers(0, 256, size - 6, dtype=np.uint8).tobytes()
        (tmp_path / "damaged.mp4").write_bytes(content)
        clip = read_cameras({"rgb": tmp_path / "damaged.mp4"}, moments, CameraSpec())["rgb"]
        assert np.array_equal(clip.images[clip.valid], true.images[clip.valid])
        # A decoder that loses a key frame may drop what it had not shown yet, and that costs what is predicted from it.
        assert 1 <= clip.lost <= 15 and clip.valid[:9].all() and clip.valid[24:].all()
        affected += clip.lost
    assert affected > 24  # not only the damaged frames themselves


@pytest.mark.parametrize("format", ["gray10le", "gray16le"])
def test_gray_video_keeps_the_stored_numbers(tmp_path: Path, format: str) -> None:
    if format == "gray16le":
        path = write_frames(tmp_path / "d.mkv", numbered(3, 321, np.uint16, (9, 13)), 5, kind="gray16le")
    else:
        path = tmp_path / "d.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("ffv1", rate=5)
            stream.height, stream.width, stream.pix_fmt = 9, 13, format
            for image in numbered(3, 321, np.uint16, (9, 13)):
                frame = av.VideoFrame(13, 9, format)
                rows = np.zeros((9, frame.planes[0].line_size // 2), np.uint16)
                rows[:, :13] = image
                frame.planes[0].update(rows.tobytes())
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    clip = read_cameras({"infrared": path}, [0, 200_000, 400_000], CameraSpec())["infrared"]
    assert clip.images.dtype == np.uint16 and clip.images.shape == (3, 9, 13, 1)
    assert clip.images[:, 4, 12, 0].tolist() == [321, 642, 963]


def depth_folder(path: Path) -> Path:
    path.mkdir()
    for number in (7, 8, 10):
        cv2.imwrite(str(path / f"frame_{number:05d}.png"), np.full((10, 12), 100 * number, np.uint16))
    return path


def depth_array(path: Path) -> Path:
    np.save(path.with_suffix(".npy"), np.stack(numbered(4, 100, np.uint16, (10, 12))) + np.array(600, np.uint16))
    return path.with_suffix(".npy")


@pytest.mark.parametrize(
    ("make", "metres"), [(depth_folder, [0.7, 0.8, 0.0, 1.0]), (depth_array, [0.7, 0.8, 0.9, 1.0])]
)
def test_folders_and_arrays_are_depth_too_and_a_missing_number_is_a_lost_frame(
    tmp_path: Path, make: Callable[[Path], Path], metres: list[float]
) -> None:
    spec = CameraSpec(fps={"depth": 4.0})
    path = make(tmp_path / "depth")
    clip = read_cameras({"depth": path}, [0, 250_000, 500_000, 750_000], spec)["depth"]
    np.testing.assert_allclose(clip.images[:, 0, 0, 0], metres, rtol=1e-5)
    assert clip.valid.tolist() == [value > 0 for value in metres]
    late = read_cameras({"depth": path}, [800_000], spec)["depth"]
    assert late.times_us.tolist() == [750_000] and late.images.max() == pytest.approx(1.0)
    with pytest.raises(AffuseError, match="fps"):
        read_cameras({"depth": path}, [0], CameraSpec())


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_an_archive_under_the_name_of_an_array_is_one_clear_error(tmp_path: Path, share: float) -> None:
    np.savez(tmp_path / "a.npz", depth=np.stack(numbered(4)))
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npy").write_bytes(content[: int(share * len(content))])
    with pytest.raises(AffuseError, match=r"a\.npy: an archive of arrays"):
        read_cameras({"depth": tmp_path / "a.npy"}, [0], CameraSpec(fps={"depth": 4.0}))


def test_pictures_named_by_seconds_keep_their_clock(tmp_path: Path) -> None:
    for name in ("1305031102.160407", "1305031102.194330"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((4, 4), 900, np.uint16))
    clip = read_cameras({"depth": tmp_path}, [1305031102_180000], CameraSpec(frame_names="seconds"))["depth"]
    assert clip.times_us.tolist() == [1305031102_160407]


def test_a_tensor_is_normalised_and_nan_where_there_is_no_frame(cabin: Paths) -> None:
    spec = CameraSpec(size=12, depth=DepthSpec(form="metric_valid", mean_m=1.0, std_m=0.5))
    clips = read_cameras(cabin, [-100_000, 1_000_000, 1_400_000], spec)
    tensors = {name: clip_input(clip, spec) for name, clip in clips.items()}
    assert {n: tuple(t.shape) for n, t in tensors.items()} == {
        "rgb": (3, 3, 12, 12),
        "infrared": (3, 1, 12, 12),
        "depth": (3, 2, 12, 12),
    }
    for tensor in tensors.values():
        assert tensor.dtype == torch.float32
        assert torch.isnan(tensor[0]).all() and torch.isfinite(tensor[1:]).all()
    assert tensors["infrared"][1].unique().tolist() == pytest.approx([(11 / 255 - 0.5) / 0.25])
    assert tensors["depth"][1, 0].unique().tolist() == pytest.approx([(0.6 - 1) / 0.5])
    assert (tensors["depth"][1:, 1] == 1).all()


def test_a_camera_without_any_frame_is_absent_from_the_inputs(cabin: Paths) -> None:
    spec = CameraSpec(size=12, offsets_us={"rgb": 10_000_000})
    inputs, times = camera_inputs(read_cameras(cabin, [0, 100_000], spec), spec)
    assert set(inputs) == set(times) == {"infrared", "depth"}
    assert times["infrared"].tolist() == [0, 100_000] and times["infrared"].dtype == torch.int64


def test_infrared_white_is_a_setting(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), np.array([[0, 1000], [2000, 4000]], np.uint16))
    spec = CameraSpec(size=2, infrared_white=2000.0, infrared_mean=0.0, infrared_std=1.0)
    clip = read_cameras({"infrared": tmp_path / "0.png"}, [0], spec)["infrared"]
    assert clip_input(clip, spec)[0, 0].tolist() == [[0.0, 0.5], [1.0, 1.0]]


def test_large_frames_are_shrunk_as_they_are_read_and_depth_is_not_mixed(tmp_path: Path) -> None:
    depth = np.zeros((60, 80), np.uint16)
    depth[:, 41:] = 2000
    cv2.imwrite(str(tmp_path / "depth.png"), depth)
    cv2.imwrite(str(tmp_path / "rgb.png"), np.full((60, 80, 3), 9, np.uint8))
    paths = {"depth": tmp_path / "depth.png", "rgb": tmp_path / "rgb.png"}
    clips = read_cameras(paths, [0], CameraSpec(keep=20))
    assert clips["depth"].images.shape == (1, 15, 20, 1) and clips["rgb"].images.shape == (1, 15, 20, 3)
    np.testing.assert_allclose(np.unique(clips["depth"].images), [0, 2], rtol=1e-5)
    assert read_cameras(paths, [0], CameraSpec(keep=500))["depth"].images.shape == (1, 60, 80, 1)


@pytest.mark.parametrize("keep", [None, 80, 53])
def test_surface_normals_are_the_same_however_far_frames_are_shrunk(tmp_path: Path, keep: int | None) -> None:
    # The plane n . p = -1.5 m as a pinhole camera of 160 x 120 sees it, its principal point beside the middle.
    fx, fy, cx, cy = intrinsics = (140.0, 150.0, 70.0, 66.0)
    normal = np.array([0.501, 0.2, -0.842]) / np.linalg.norm([0.501, 0.2, -0.842])
    u, v = np.meshgrid(np.arange(160) - cx, np.arange(120) - cy)
    metres = -1.5 / (np.stack([u / fx, v / fy, np.ones_like(u)], -1) @ normal)
    np.save(tmp_path / "depth.npy", np.repeat(metres[None].astype(np.float32), 6, axis=0))
    depth = DepthSpec(near_m=0.01, far_m=100.0, form="normals", intrinsics=intrinsics)
    spec = CameraSpec(size=24, keep=keep, fps={"depth": 10.0}, depth=depth)
    paths = {"depth": tmp_path / "depth.npy"}
    (window,) = camera_windows(paths, spec, frames=3, step_us=100_000, hop_us=100_000, stop_us=300_000)
    for clip in (read_cameras(paths, [0, 100_000, 200_000], spec)["depth"], window["depth"]):
        inside = clip_input(clip, spec)[:, :, 2:-2, 2:-2]
        wanted = torch.tensor(normal, dtype=torch.float32)[None, :, None, None]
        assert clip.stored_size == (120, 160)
        assert (inside - wanted).abs().max() < 0.02


def test_windows_are_the_clips_of_their_moments(cabin: Paths) -> None:
    spec = CameraSpec(offsets_us={"depth": 70_000})
    windows = list(camera_windows(cabin, spec, frames=4, step_us=100_000, hop_us=300_000, start_us=-100_000))
    assert len(windows) == 7  # the last moment of the seventh, 2.0 s, is within the depth; that of the eighth is not
    for index, window in enumerate(windows):
        moments = [-100_000 + 300_000 * index + 100_000 * i for i in range(4)]
        for name, clip in read_cameras(cabin, moments, spec).items():
            assert np.array_equal(clip.times_us, window[name].times_us)
            assert np.array_equal(clip.valid, window[name].valid)
            assert np.array_equal(clip.images, window[name].images)


def test_a_recording_shorter_than_a_window_gives_one(cabin: Paths) -> None:
    windows = list(camera_windows({"depth": cabin["depth"]}, CameraSpec(), frames=15, step_us=200_000, hop_us=200_000))
    assert len(windows) == 1 and windows[0]["depth"].valid.tolist() == [True] * 10 + [False] * 5


def test_windows_of_stills_need_an_end(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "depth.png"), np.full((8, 8), 900, np.uint16))
    paths = {"depth": tmp_path / "depth.png"}
    with pytest.raises(AffuseError, match="stop_us"):
        next(camera_windows(paths, CameraSpec(), frames=2, step_us=1000, hop_us=1000))
    windows = list(camera_windows(paths, CameraSpec(), frames=2, step_us=1000, hop_us=1000, stop_us=5000))
    assert len(windows) == 4


def test_a_long_recording_is_read_in_bounded_memory(tmp_path: Path) -> None:
    images = [np.full((96, 128), index % 250, np.uint8) for index in range(60)]
    peaks = []
    for repeats in (2, 20):
        path = write_frames(tmp_path / f"{repeats}.mkv", images * repeats, 30)
        tracemalloc.start()
        count = sum(
            1 for _ in camera_windows({"infrared": path}, CameraSpec(), frames=8, step_us=100_000, hop_us=200_000)
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count == pytest.approx(repeats * 10, abs=5)
    assert peaks[1] < peaks[0] + 4 * 96 * 128  # ten times as many frames, not even four frames more


def test_frames_that_nobody_wants_are_never_made_into_pictures(cabin: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    convert = timed_frames.gray_image
    monkeypatch.setattr(timed_frames, "gray_image", lambda frame: made.append(1) or convert(frame))
    read_cameras({"infrared": cabin["infrared"]}, [0, 10, 20, 1_500_000], CameraSpec())
    assert len(made) == 2


def test_impossible_wishes_are_clear_errors(cabin: Paths) -> None:
    for times in ([], [5, 4]):
        with pytest.raises(AffuseError, match="times_us"):
            read_cameras(cabin, times, CameraSpec())
    with pytest.raises(AffuseError, match="hop_us"):
        camera_windows(cabin, CameraSpec(), frames=4, step_us=100, hop_us=150)
    with pytest.raises(AffuseError, match="no camera"):
        camera_windows({}, CameraSpec(), frames=4, step_us=100, hop_us=100)
    with pytest.raises(AffuseError, match="'thermal'"):
        read_cameras({"thermal": cabin["rgb"]}, [0], CameraSpec())
    with pytest.raises(AffuseError, match="'colour'"):
        CameraSpec(offsets_us={"colour": 5})
    for wrong in ({"size": 0}, {"max_age_us": -1}, {"rgb_std": 0.0}):
        with pytest.raises(AffuseError, match=next(iter(wrong))):
            CameraSpec(**wrong)  # type: ignore[arg-type]
    assert camera_kind("infrared_ceiling") == "infrared" and cameras.KINDS == ("rgb", "infrared", "depth")


def test_a_real_video_and_a_real_depth_image_become_inputs(real_data: Path) -> None:
    depth = real_data / "rgbd" / "depth_1.pgm"
    spec = CameraSpec(size=48, keep=160)
    paths = {"rgb": real_data / "faces" / "single_face.mp4", "depth": depth}
    clips = read_cameras(paths, [200_000 * i for i in range(8)], spec)
    inputs, _ = camera_inputs(clips, spec)
    assert inputs["rgb"].shape == (8, 3, 48, 48) and inputs["depth"].shape == (8, 1, 48, 48)
    assert torch.isfinite(inputs["rgb"]).all() and inputs["rgb"].std() > 0.3
    stored = cv2.imread(str(depth), cv2.IMREAD_UNCHANGED)
    metres = clips["depth"].images[0][clips["depth"].images[0] > 0]
    assert metres.mean() == pytest.approx(stored[stored > 0].mean() / 1000, rel=0.05)
    normals = clip_input(clips["depth"], CameraSpec(depth=DepthSpec(form="normals")))[0]
    lengths = normals.norm(dim=0)
    assert ((lengths - 1).abs() < 1e-4).logical_or(lengths == 0).all() and (lengths > 0).float().mean() > 0.5
