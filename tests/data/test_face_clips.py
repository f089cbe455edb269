"""The source of samples over clips of faces: what is drawn, what is absent, what follows what."""

import dataclasses
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from affuse import Batch
from affuse.data.clip_index import ClipFile
from affuse.data.face_augmentation import MIRRORED, FaceAugmentation
from affuse.data.face_cache import FaceCache
from affuse.data.face_clips import FaceClips, by_subject, stratified
from affuse.signals.face import FaceClip, FacePipeline
from affuse.signals.face_input import FaceInput

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
STILL = FaceAugmentation(
    rotate=0.0,
    shift=0.0,
    zoom=0.0,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    hue=0.0,
    noise_share=0.0,
    blur_share=0.0,
)
MIRROR = dataclasses.replace(STILL, flip=1.0)


def grays(face: torch.Tensor) -> list[int]:
    return [round(value / 10) for value in (face.mean((1, 2, 3)) * 255).tolist()]


def test_training_draws_frames_by_torchs_seed_and_the_rest_is_fixed(tmp_path: Path, face_files: ModuleType) -> None:
    folder = face_files.write_pictures(tmp_path / "1", [f"{k}.jpg" for k in range(1, 21)])
    clips = [ClipFile("1", 0, folder, 10.0)]
    spec = FaceInput(frames=8, size=16, sampling="segments", **PLAIN)  # type: ignore[arg-type]
    training, testing = FaceClips(clips, spec, training=True), FaceClips(clips, spec)

    def drawn(source: FaceClips, seed: int) -> list[int]:
        torch.manual_seed(seed)
        sample = source[0]
        frames = grays(sample.inputs["face"])
        assert [(frame - 1) * 100_000 for frame in frames] == sample.times_us["face"].tolist()
        assert [second - first for first, second in zip(frames[::2], frames[1::2], strict=True)] == [1] * 4
        return frames

    assert drawn(training, 1) == drawn(training, 1)
    assert len({tuple(drawn(training, seed)) for seed in range(8)}) > 1
    assert drawn(testing, 1) == drawn(testing, 2)


def test_a_video_is_read_at_the_same_frames_each_time_with_its_own_clock(
    tmp_path: Path, face_files: ModuleType
) -> None:
    frames = [face_files.picture(10 * (k + 1)) for k in range(12)]
    path = face_files.write_video(tmp_path / "1.mp4", frames, fps=20)
    source = FaceClips([ClipFile("1", 0, path)], FaceInput(frames=4, size=16, **PLAIN))  # type: ignore[arg-type]
    for _ in range(2):  # the second time it is known how many frames there are
        sample = source[0]
        assert grays(sample.inputs["face"]) == [2, 5, 8, 11]
        assert sample.times_us["face"].tolist() == [50_000, 200_000, 350_000, 500_000]


def test_pictures_that_are_not_square_or_differ_in_size_are_squeezed(tmp_path: Path, face_files: ModuleType) -> None:
    import cv2

    (tmp_path / "1").mkdir()
    for number, shape in enumerate(((20, 30), (24, 24)), start=1):
        cv2.imwrite(str(tmp_path / "1" / f"{number}.png"), np.full((*shape, 3), 100, np.uint8))
    face = FaceClips([ClipFile("1", 0, tmp_path / "1")], FaceInput(frames=2, size=16, **PLAIN))[0].inputs["face"]  # type: ignore[arg-type]
    assert face.shape == (2, 3, 16, 16) and face.flatten().tolist() == pytest.approx(
        [100 / 255] * face.numel(), abs=1e-3
    )


@pytest.fixture
def kept(tmp_path: Path) -> tuple[FaceCache, list[ClipFile], FaceInput, np.ndarray]:
    """Two prepared clips of four frames, the second without any face; landmarks of the first in all frames but the last."""
    pipeline = FacePipeline(size=32, landmarks=True)
    cache = FaceCache(tmp_path / "out", tmp_path, pipeline)
    cache.begin()
    random = np.random.default_rng(0)
    points = random.uniform(-0.9, 0.9, (4, 68, 2)).astype(np.float32)
    points[3] = np.nan
    clips = []
    for name, found in (("1", True), ("2", False)):
        path = tmp_path / f"{name}.mp4"
        path.write_bytes(b"stands for a video")
        images = (
            random.integers(0, 255, (4, 32, 32, 3), dtype=np.uint8) if found else np.zeros((4, 32, 32, 3), np.uint8)
        )
        clip = FaceClip(
            images,
            np.arange(4, dtype=np.int64) * 40_000,
            np.full(4, found),
            points if found else np.full_like(points, np.nan),
            np.zeros((4, 4), np.float32),
            np.zeros((4, 2, 3)),
            np.ones(4, np.int64),
            ("ok" if found else "no face",) * 4,
        )
        cache.store(path, clip)
        clips.append(ClipFile(name, 0, path, meta={"subject": "s"}))
    return cache, clips, FaceInput(frames=4, size=32, landmarks=True, pipeline=pipeline, **PLAIN), points  # type: ignore[arg-type]


def test_landmarks_are_mirrored_with_their_faces(kept: tuple[FaceCache, list[ClipFile], FaceInput, np.ndarray]) -> None:
    cache, clips, spec, points = kept
    plain = FaceClips(clips, spec, MIRROR, training=False, cache=cache)[0]
    turned = FaceClips(clips, spec, MIRROR, training=True, cache=cache)[0]
    assert set(plain.inputs) == set(plain.times_us) == {"face", "landmarks"}
    assert np.array_equal(plain.inputs["landmarks"].numpy(), points, equal_nan=True)
    # Training draws its frames, here one in each part of one frame: the same ones.
    assert torch.equal(turned.inputs["face"], plain.inputs["face"].flip(-1))
    expected = (points * np.array([-1, 1], np.float32))[:, MIRRORED]
    assert np.array_equal(turned.inputs["landmarks"].numpy(), expected, equal_nan=True)


def test_a_clip_without_any_face_is_absent_in_a_batch(
    kept: tuple[FaceCache, list[ClipFile], FaceInput, np.ndarray],
) -> None:
    cache, clips, spec, _ = kept
    source = FaceClips(clips, spec, STILL, training=True, cache=cache)
    batch = Batch.collate([source[0], source[1]])
    assert batch.present.tolist() == [[True, True], [False, False]] and source[1].times_us == {}
    assert source.targets == [0, 0] and batch.meta[1]["subject"] == "s"


def test_a_share_of_each_class_is_drawn_and_never_all_of_it() -> None:
    clips = [ClipFile(str(k), int(k >= 95), None) for k in range(100)]
    clips.append(ClipFile("alone", 2, None))
    rest, drawn = stratified(clips, 0.1, 0)
    assert len(rest) + len(drawn) == 101 and {c.name for c in rest}.isdisjoint(c.name for c in drawn)
    assert [sum(c.target == target for c in drawn) for target in (0, 1, 2)] == [10, 1, 0]
    assert [c.name for c in drawn] == [c.name for c in clips if c in drawn]


def test_subjects_are_drawn_whole() -> None:
    clips = [ClipFile(f"{who}{k}", 0, None, meta={"subject": str(who)}) for who in range(10) for k in range(who + 1)]
    parts = by_subject(clips, {"validation": 0.2, "test": 0.3}, "train", 1)
    people = {part: {clip.meta["subject"] for clip in members} for part, members in parts.items()}
    assert [len(people[part]) for part in ("train", "validation", "test")] == [5, 2, 3]
    assert sum(map(len, parts.values())) == len(clips) and len(set.union(*people.values())) == 10
