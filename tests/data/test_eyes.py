"""The synthetic eye world keeps its word: what moves, what light does, and what it says is the truth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from affuse.data.see import SEE
from affuse.data.synthetic.eye_motion import EXPRESSIONS, Motion, still
from affuse.data.synthetic.eye_renderer import draw_subject, render
from affuse.data.synthetic.eyes import CLASSES, EyeClips, Eyes, expose, plans, write_see
from affuse.data.synthetic.rgb_sensor import LIGHTS, FrameCamera, signal_kept
from affuse.signals.clips import ClipSpec
from affuse.types import AffuseError

SMALL = Eyes(
    train_sequences=56,
    validation_sequences=28,
    test_sequences=56,
    train_subjects=6,
    validation_subjects=3,
    test_subjects=5,
    clip=ClipSpec(size=32),
    size=32,
)


@pytest.fixture(scope="module")
def test_split() -> EyeClips:
    return EyeClips(SMALL, "test", 0)


def moved(units: dict[int, float], size: int = 64) -> np.ndarray:
    """Change (size, size) of the picture between a face at rest and one with these action units."""
    motion = still(2)
    for unit, level in units.items():
        motion.units[unit][1] = level
    picture = render(draw_subject(np.random.default_rng(3)), motion, size).mean(-1)
    return np.abs(picture[1] - picture[0])


# Rows and columns, as shares of the picture's side, where a unit must show: the nose is left, the forehead up.
PARTS = {
    1: (slice(0.0, 0.45), slice(0.0, 0.55)),
    2: (slice(0.0, 0.45), slice(0.45, 1.0)),
    4: (slice(0.1, 0.6), slice(0.0, 0.7)),
    5: (slice(0.3, 0.65), slice(0.15, 0.85)),
    6: (slice(0.55, 1.0), slice(0.1, 1.0)),
    7: (slice(0.45, 0.85), slice(0.15, 0.85)),
    9: (slice(0.2, 0.9), slice(0.0, 0.6)),
    43: (slice(0.4, 0.7), slice(0.15, 0.85)),
    45: (slice(0.4, 0.75), slice(0.15, 0.85)),
}


@pytest.mark.parametrize("unit", PARTS)
def test_an_action_unit_moves_its_part_of_the_face(unit: int) -> None:
    change = moved({unit: 1.0})
    rows, columns = (slice(int(s.start * 64), int(s.stop * 64)) for s in PARTS[unit])
    assert change[rows, columns].sum() > 0.65 * change.sum() > 0


def centre_of_brow(units: dict[int, float], columns: slice) -> float:
    """Mean row of the dark of the brow in these columns, pixels of 64."""
    motion = still(1)
    for unit, level in units.items():
        motion.units[unit][0] = level
    subject = replace(draw_subject(np.random.default_rng(3)), wrinkles=0.0, texture=np.zeros((0, 4), np.float32))
    picture = render(subject, motion, 64)[0].mean(-1)[4:32, columns]
    dark = np.maximum(0.6 * picture.max() - picture, 0).sum(1)
    return float((np.arange(4, 32) * dark).sum() / dark.sum())


def test_brow_units_raise_and_lower_the_brow() -> None:
    inner, outer = slice(12, 24), slice(38, 50)
    rest = {part: centre_of_brow({}, columns) for part, columns in (("inner", inner), ("outer", outer))}
    assert centre_of_brow({1: 1.0}, inner) < rest["inner"] - 2
    assert abs(centre_of_brow({1: 1.0}, outer) - rest["outer"]) < 2
    assert centre_of_brow({2: 1.0}, outer) < rest["outer"] - 2
    assert centre_of_brow({4: 1.0}, inner) > rest["inner"] + 2


def test_lid_units_open_and_close_the_eye() -> None:
    def bright(units: dict[int, float]) -> float:
        motion = still(1)
        for unit, level in units.items():
            motion.units[unit][0] = level
        subject = replace(draw_subject(np.random.default_rng(3)), skin=np.full(3, 0.05, np.float32))
        return float((render(subject, motion, 64)[0].mean(-1) > 0.3).mean())  # white of the eye

    open_, rest = bright({5: 1.0}), bright({})
    assert open_ > rest > bright({7: 1.0}) > bright({45: 1.0})
    assert rest > bright({43: 1.0})
    assert rest > bright({6: 1.0})
    assert bright({45: 1.0}) < 0.1 * rest


def test_every_expression_but_neutral_shows() -> None:
    for name, units in EXPRESSIONS.items():
        change = moved(units)
        assert change.mean() > 0.005 if name != "neutral" else not change.any()


def test_the_same_seed_gives_the_same_world(test_split: EyeClips) -> None:
    again, other = EyeClips(SMALL, "test", 0), EyeClips(SMALL, "test", 1)
    for index in (0, 5):
        one, two = test_split[index], again[index]
        assert one.meta == two.meta
        assert all(torch.equal(one.inputs[name], two.inputs[name]) for name in ("rgb", "event"))
    assert not torch.equal(test_split[0].inputs["rgb"], other[0].inputs["rgb"])
    assert replace(SMALL, world_seed=1).splits(0).facts["world_seed"] == 1


def test_subjects_and_recordings_are_disjoint_across_splits() -> None:
    parts = [plans(SMALL, split, 0) for split in ("train", "validation", "test")]
    people = [{plan.subject for plan in part} for part in parts]
    assert not (people[0] & people[1] or people[0] & people[2] or people[1] & people[2])
    assert len({plan.id for part in parts for plan in part}) == sum(map(len, parts))
    assert len({plan.seed for part in parts for plan in part}) == sum(map(len, parts))


def test_expressions_and_lights_take_equal_shares() -> None:
    pairs = [(plan.label, plan.light) for plan in plans(SMALL, "train", 0)]
    assert {pairs.count(pair) for pair in pairs} == {2}
    assert len(set(pairs)) == len(CLASSES) * len(LIGHTS)


def test_samples_are_what_the_clip_says() -> None:
    splits = replace(SMALL, test_crops=3).splits(0)
    assert splits.synthetic
    assert splits.task.classes == CLASSES
    assert len(splits.test) == 3 * 56
    crops = [splits.test[index] for index in range(3)]
    assert [crop.meta["crop"] for crop in crops] == [0, 1, 2]
    assert len({crop.meta["id"] for crop in crops}) == 1
    assert int(crops[0].times_us["rgb"][0]) < int(crops[1].times_us["rgb"][0]) < int(crops[2].times_us["rgb"][0])
    sample = splits.train[0]
    assert sample.inputs["rgb"].shape == (4, 3, 32, 32)
    assert sample.inputs["event"].shape == (4, 3, 32, 32)
    steps = sample.times_us["rgb"].diff()
    assert int((steps - SMALL.clip.window_us).abs().max()) <= 1


def test_training_crops_follow_torch_and_test_crops_do_not() -> None:
    splits = SMALL.splits(0)

    def starts(source: EyeClips, seed: int) -> list[int]:
        torch.manual_seed(seed)
        return [int(source[0].times_us["rgb"][0]) for _ in range(8)]

    assert isinstance(splits.train, EyeClips)
    assert isinstance(splits.test, EyeClips)
    assert starts(splits.train, 0) == starts(splits.train, 0)
    assert len(set(starts(splits.train, 0))) > 1
    assert len(set(starts(splits.test, 0))) == 1


def test_light_does_what_its_name_says(test_split: EyeClips) -> None:
    pixels: dict[str, list[np.ndarray]] = {light: [] for light in LIGHTS}
    for row, plan in enumerate(test_split.plans):
        pixels[plan.light].append(test_split.recording(row).frames)
    clipped = {light: np.mean([(f == 255).mean() for f in frames]) for light, frames in pixels.items()}
    mean = {light: np.mean([f.mean() for f in frames]) for light, frames in pixels.items()}
    spread = {light: np.mean([f.std() for f in frames]) for light, frames in pixels.items()}
    assert clipped["Overexposed"] > 0.3 > 0.05 > clipped["normal"]
    assert mean["Low"] < 40 < mean["normal"] < mean["Overexposed"]
    assert spread["HDR"] > spread["normal"]


def test_truth_is_in_range_and_bad_light_costs_signal(test_split: EyeClips) -> None:
    kept: dict[str, list[float]] = {light: [] for light in LIGHTS}
    for row, plan in enumerate(test_split.plans):
        truth = test_split.recording(row).truth
        assert truth["light"] == plan.light
        assert 0 <= truth["rgb_kept"] <= 1
        assert 0 <= truth["event_kept"] <= 1
        assert (truth["onset_us"] is None) == (plan.label == "neutral")
        kept[plan.light].append(truth["rgb_kept"])
    mean = {light: np.mean(values) for light, values in kept.items()}
    assert mean["normal"] > 0.9
    assert all(mean[light] < mean["normal"] - 0.1 for light in ("Overexposed", "Low", "HDR"))
    noisy = [test_split.recording(r).truth["event_kept"] for r, p in enumerate(test_split.plans) if p.light == "Low"]
    quiet = [test_split.recording(r).truth["event_kept"] for r, p in enumerate(test_split.plans) if p.light == "normal"]
    assert np.mean(noisy) < np.mean(quiet)


def test_signal_kept_ignores_exposure_and_notices_clipping() -> None:
    clean = np.random.default_rng(0).integers(20, 100, (2, 8, 8, 3)).astype(np.uint8)
    assert signal_kept(clean * 2 + 10, clean) == pytest.approx(1, abs=1e-5)
    assert signal_kept(np.maximum(clean, 80), clean) < 0.7
    assert signal_kept(np.full_like(clean, 255), clean) == 0


def test_events_come_of_the_motion_that_the_frames_show() -> None:
    config = replace(SMALL, leak_rate_hz=0.0)
    subject = draw_subject(np.random.default_rng(1))
    steps = config.length * config.oversampling

    def view(motion: Motion):
        return expose(config, subject, motion, "normal", np.random.default_rng(0))

    rest = view(still(steps))
    assert rest.truth["event_kept"] == 0
    raised = still(steps)
    raised.units[1][20:], raised.units[2][20:] = 1, 1
    moving = view(raised)
    assert moving.truth["event_kept"] > 0.2
    # The brow jumps between two steps: that is when the extra events come, and where the frames differ.
    start_us, stop_us = 19 * 1e6 / 60, 20 * 1e6 / 60
    burst = moving.events.slice_time(int(start_us), int(stop_us) + 1)
    assert len(burst) > 50 * max(1, len(rest.events.slice_time(int(start_us), int(stop_us) + 1)) // 5)
    changed = np.abs(moving.frames[12].astype(int) - moving.frames[8]).sum(-1) > 60
    changed = cv2.dilate(changed.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert changed[burst.y, burst.x].mean() > 0.8


def test_low_light_blurs_motion() -> None:
    still_noise_free = replace(SMALL, camera=FrameCamera(full_well=1e9, read_noise=0.0))
    steps = SMALL.length * SMALL.oversampling
    motion = still(steps)
    motion.head[:, 0] = np.where(np.arange(steps) % 2, 0.3, -0.3)  # between the frames
    subject = draw_subject(np.random.default_rng(1))
    low = expose(still_noise_free, subject, motion, "Low", np.random.default_rng(0)).frames[5]
    sharp = expose(still_noise_free, subject, motion, "normal", np.random.default_rng(0)).frames[5]
    detail = [np.abs(np.diff(f.astype(float), axis=1)).mean() / f.std() for f in (low, sharp)]
    assert detail[0] != pytest.approx(detail[1], rel=0.02)


def test_the_world_on_disk_is_read_by_the_reader_of_see(tmp_path: Path) -> None:
    config = replace(SMALL, train_sequences=28, validation_sequences=7, test_sequences=7, length=18)
    root = tmp_path / "eyes"
    write_see(config, root, 0)
    document = json.loads((root / "emotion.json").read_text())
    truth = json.loads((root / "truth.json").read_text())
    assert document["labels"] == list(CLASSES)
    assert len(document["database"]) == 42
    assert set(truth) == set(document["database"])
    for name, entry in document["database"].items():
        fields = name.split("_")
        assert len(fields) == 9
        assert fields[6] == entry["annotations"]["label"]
        assert fields[5] == truth[name]["light"]
        for kind in ("event", "frame"):
            files = sorted(path.name for path in (root / kind / fields[6] / name).iterdir())
            assert files == [f"{number:05d}.jpg" for number in range(18)]
    splits = SEE(str(root), test_crops=1).splits(0)
    assert splits.synthetic
    assert len(splits.test) == 7
    sample = splits.test[0]
    assert sample.inputs["rgb"].isfinite().all()
    assert sample.meta["condition"] in LIGHTS
    with pytest.raises(AffuseError, match="not an empty folder"):
        write_see(config, root, 0)


def test_written_pictures_keep_colours_and_events(tmp_path: Path) -> None:
    config = replace(SMALL, train_sequences=1, validation_sequences=1, test_sequences=1, length=18)
    write_see(config, tmp_path / "eyes", 0)
    plan = plans(config, "train", 0)[0]
    recording = EyeClips(config, "train", 0).recording(0)
    folder = next((tmp_path / "eyes" / "frame" / plan.label).glob(f"1_{plan.subject + 1:03d}_*"))
    picture = cv2.imread(str(folder / "00009.jpg"))[..., ::-1]
    assert np.abs(picture.astype(int) - recording.frames[9]).mean() < 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 10}, "do not fit into 10 frames"),
        ({"lights": ("dusk",)}, "dusk"),
        ({"lights": ()}, "none is given"),
        ({"train_subjects": 0}, "at least 1"),
        ({"intensity": (0.9, 0.2)}, "must rise"),
    ],
)
def test_an_impossible_world_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(AffuseError, match=message):
        replace(SMALL, **change)
