"""The synthetic cabin: three cameras see one driver, each with its limits, and the truth of them is known."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affuse.data.drive_and_act import DriveAndAct
from affuse.data.synthetic.cabin import CAMERAS, CLASSES, Cabin, as_inputs, plans, record, subject_of
from affuse.data.synthetic.cabin_actions import ACTIONS, draw_motion
from affuse.data.synthetic.cabin_files import write_drive_and_act
from affuse.data.synthetic.cabin_renderer import render
from affuse.data.synthetic.cabin_sensors import LIGHTS, CabinCameras, expose
from affuse.signals.cameras import CameraClip, CameraSpec, clip_input
from affuse.signals.depth import DepthSpec
from affuse.types import AffuseError, Batch

SMALL = Cabin(
    train_clips=68, validation_clips=68, test_clips=68, train_subjects=6, validation_subjects=3, test_subjects=4
)


def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    first, again, other = (SMALL.splits(seed).train[7] for seed in (0, 0, 1))
    for name in CAMERAS:
        assert torch.equal(first.inputs[name], again.inputs[name])
        assert not torch.equal(first.inputs[name], other.inputs[name])
    assert first.meta == again.meta


def test_a_clip_does_not_depend_on_which_were_read_before() -> None:
    one, two = SMALL.splits(3).test, SMALL.splits(3).test
    for index in (5, 1, 9):
        two[index]
    assert torch.equal(one[9].inputs["depth"], two[9].inputs["depth"])


def test_no_subject_stands_in_two_splits() -> None:
    people = [{plan.subject for plan in plans(SMALL, split, 0)} for split in ("train", "validation", "test")]
    assert people[0] <= set(range(6)) and people[1] <= set(range(6, 9)) and people[2] <= set(range(9, 13))
    assert all(len(p) > 1 for p in people)
    looks = [subject_of(0, number) for number in range(13)]
    assert len({(look.size, look.shirt, look.skin) for look in looks}) == 13


def test_actions_and_lights_take_equal_shares() -> None:
    planned = plans(SMALL, "test", 4)
    pairs = {(plan.label, plan.light) for plan in planned}
    assert pairs == set(itertools.product(CLASSES, LIGHTS)) and len(planned) == len(pairs)


@pytest.mark.parametrize("depth_channels", [1, 2])
def test_shapes_clock_scale_and_meta_are_as_declared(depth_channels: int) -> None:
    config = Cabin(frames=4, size=32, depth_channels=depth_channels, train_clips=60, train_subjects=5)
    splits = config.splits(0)
    sample = splits.train[3]
    assert splits.synthetic and splits.task.classes == CLASSES and len(CLASSES) >= 12
    shapes = {name: tuple(tensor.shape) for name, tensor in sample.inputs.items()}
    assert shapes == {"rgb": (4, 3, 32, 32), "infrared": (4, 1, 32, 32), "depth": (4, depth_channels, 32, 32)}
    for name in CAMERAS:
        tensor = sample.inputs[name]
        assert tensor.dtype == torch.float32 and torch.isfinite(tensor).all() and tensor.abs().max() < 6
        assert sample.times_us[name].tolist() == [0, 750_000, 1_500_000, 2_250_000]
    assert sample.meta["condition"] == sample.meta["truth"]["light"] in LIGHTS
    assert isinstance(sample.target, int) and splits.task.classes[sample.target] in CLASSES
    batch = Batch.collate([splits.train[i] for i in range(3)])
    assert batch.modalities == CAMERAS and batch.present.all() and not batch.lengths


def test_a_depth_pixel_without_an_answer_is_zero_and_said_to_be_none() -> None:
    seen = record(SMALL, plans(SMALL, "train", 0)[0])
    depth = as_inputs(seen, 2)["depth"]
    none = torch.from_numpy(seen.depth == 0)
    assert none.any() and not none.all()
    assert (depth[:, 0][none] == 0).all() and (depth[:, 1][none] == 0).all() and (depth[:, 1][~none] == 1).all()
    assert (depth[:, 0][~none] != 0).float().mean() > 0.9


def test_each_camera_has_its_own_weakness() -> None:
    """Darkness and glare take from colour; depth does not feel them; infrared has its lamp at night."""
    signal = {
        light: {name: np.mean([clip.meta["truth"]["signal"][name] for clip in clips]) for name in CAMERAS}
        for light in LIGHTS
        if (source := Cabin(test_clips=10, frames=2, lights=(light,)).splits(0).test)
        and (clips := [source[i] for i in range(len(source))])
    }
    assert signal["day"]["rgb"] > 0.75 > 0.7 > signal["dusk"]["rgb"] > 0.2 > 0.05 > signal["night"]["rgb"]
    assert signal["glare"]["rgb"] < 0.6
    assert abs(signal["night"]["depth"] - signal["day"]["depth"]) < 0.05
    assert signal["night"]["infrared"] > 10 * signal["night"]["rgb"]


def test_each_camera_sees_best_somewhere_and_the_truth_says_which() -> None:
    source = replace(SMALL, frames=2, test_clips=40).splits(0).test
    truths = [source[i].meta["truth"] for i in range(len(source))]
    assert {truth["informative"] for truth in truths} == set(CAMERAS)
    for truth in truths:
        assert truth["signal"][truth["informative"]] == max(truth["signal"].values())
        assert all(0 <= value <= 1 for value in truth["signal"].values())
        assert truth["rgb_lost"] == 1 - truth["rgb_kept"] == 1 - truth["signal"]["rgb"]


def test_the_sun_saturates_a_part_of_the_colour_picture_and_the_night_is_nearly_black() -> None:
    shares = {}
    for light in LIGHTS:
        source = Cabin(test_clips=6, frames=2, lights=(light,)).splits(0).test
        pictures = np.stack([source.seen(i).rgb for i in range(6)])  # type: ignore[attr-defined]
        shares[light] = (pictures.min(-1) == 255).mean(), np.median(pictures)
    assert 0.1 < shares["glare"][0] < 0.8 and shares["day"][0] < 0.1
    assert shares["night"][1] < 30 < shares["day"][1]


def test_a_thing_in_the_hand_shows_in_colour_and_hardly_in_depth() -> None:
    """The same motion with another thing: eating instead of drinking."""
    views = []
    for action in ("drinking", "eating"):
        motion = draw_motion(action, 8, np.random.default_rng(5), speed=1.0, right_handed=True)
        views.append(render(subject_of(0, 0), motion, 48, 2))
    drinking, eating = views
    changed = np.abs(drinking.colour - eating.colour).max(-1) > 0.1
    assert changed.any(axis=(1, 2)).all()
    near = np.abs(drinking.distance - eating.distance)[changed]
    assert np.median(near) < 2 * CabinCameras().depth_noise


@pytest.mark.parametrize("what", ["bottle", "laptop"])
def test_closing_is_opening_backwards(what: str) -> None:
    """Look-alikes differ by the direction of time alone: the thing's way is the same, run through backwards."""
    opening, closing = (
        draw_motion(f"{way}_{what}", 200, np.random.default_rng(2), speed=1.0, right_handed=True)
        for way in ("opening", "closing")
    )
    if what == "laptop":
        ways = [motion.things[0].opening for motion in (opening, closing)]
        assert ways[0][-1] == ways[1][0] == 1 and ways[0][0] == ways[1][-1] == 0
    else:
        ways = [np.linalg.norm(m.things[1].centre - m.things[0].centre, axis=1) for m in (opening, closing)]
        assert ways[0][-1] > ways[0][0] + 0.15 and ways[1][0] > ways[1][-1] + 0.15


def test_the_belt_ends_in_the_buckle_when_fastened_and_leaves_it_when_unfastened() -> None:
    for seed in range(5):
        fastened, opened = (
            draw_motion(f"{way}_seat_belt", 60, np.random.default_rng(seed), speed=1.0, right_handed=True).tongue
            for way in ("fastening", "unfastening")
        )
        still = draw_motion("sitting_still", 60, np.random.default_rng(seed), speed=1.0, right_handed=True).tongue
        assert np.allclose(fastened[-1], still[0]) and not np.allclose(fastened[0], still[0])
        assert np.allclose(opened[0], still[0]) and not np.allclose(opened[-1], still[0])


@settings(max_examples=20)
@given(
    action=st.sampled_from(tuple(ACTIONS)),
    light=st.sampled_from(tuple(LIGHTS)),
    frames=st.integers(1, 5),
    size=st.integers(8, 40),
    oversampling=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_every_action_in_every_light_is_recorded_finite_and_in_range(
    action: str, light: str, frames: int, size: int, oversampling: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    subject = subject_of(seed, 0)
    motion = draw_motion(action, frames, rng, speed=subject.speed, right_handed=subject.right_handed)
    view = render(subject, motion, size, oversampling, ("bottle", "phone", "newspaper"))
    assert np.isfinite(view.colour).all() and view.colour.min() >= 0 and view.colour.max() <= 1
    assert (view.spread >= 0).all() and set(np.unique(view.parts)) <= {0, 1, 2, 3, 4}
    seen = expose(view, light, CabinCameras(depth_binning=1), rng)
    assert seen.rgb.shape == (frames, size, size, 3) and seen.infrared.shape == seen.depth.shape == (frames, size, size)
    assert (seen.depth[view.distance == 0] == 0).all() and seen.depth.max() < 6000
    assert all(0 <= value <= 1 for value in seen.signal.values())


def test_the_written_world_is_read_back_as_drive_and_act(tmp_path: Path) -> None:
    """The reader of real data finds every clip: same class, same depth to the millimetre, parts without common people."""
    config = Cabin(
        train_clips=14,
        validation_clips=8,
        test_clips=8,
        actions=("eating", "opening_bottle"),
        train_subjects=3,
        validation_subjects=2,
        test_subjects=2,
        frames=2,
        size=32,
    )
    write_drive_and_act(config, tmp_path / "cabin", 5)
    cameras = CameraSpec(size=32, depth=DepthSpec(far_m=5.0))
    read = DriveAndAct(str(tmp_path / "cabin"), classes="found", frames=2, pick="uniform", cameras=cameras).splits(5)
    world = config.splits(5)
    assert read.synthetic and set(read.task.classes) == set(world.task.classes)
    assert (len(read.train), len(read.validation), len(read.test)) == (14, 8, 8)
    for mine, theirs in ((world.train, read.train), (world.test, read.test)):
        samples = [theirs[i] for i in range(len(theirs))]
        counted = sorted(read.task.classes[int(sample.target or 0)] for sample in samples)
        assert counted == sorted(plan.label for plan in mine.plans)  # type: ignore[attr-defined]
        holes = sorted(int((sample.inputs["depth"] == 0).sum()) for sample in samples)
        drawn = sorted(int((mine[i].inputs["depth"] == 0).sum()) for i in range(len(mine)))
        assert holes == drawn
    truth = json.loads((tmp_path / "cabin" / "truth.json").read_text())
    assert len(truth) == 30 and {clip["light"] for clip in truth.values()} == set(LIGHTS)
    with pytest.raises(AffuseError, match="not an empty folder"):
        write_drive_and_act(config, tmp_path / "cabin", 5)


@pytest.mark.parametrize(
    ("settings_", "named"),
    [
        ({"train_clips": 0}, "at least 1"),
        ({"lights": ("noon",)}, "noon"),
        ({"actions": ("sleeping", "eating")}, "sleeping"),
        ({"actions": ("eating", "eating")}, "each named once"),
        ({"depth_channels": 3}, "depth_channels"),
        ({"seconds": 0.0}, "seconds"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings_: dict[str, object], named: str) -> None:
    with pytest.raises(AffuseError, match=named):
        Cabin(**settings_)  # type: ignore[arg-type]


def test_impossible_cameras_are_refused() -> None:
    for wrong in ({"full_well": 0.0}, {"depth_holes": 1.5}, {"lamp": (0.5, 0.1)}, {"depth_noise": -1.0}):
        with pytest.raises(AffuseError, match="cabin cameras"):
            CabinCameras(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("depth_channels", [1, 2])
def test_predict_makes_of_the_cameras_pictures_what_the_system_was_trained_on(depth_channels: int) -> None:
    config = Cabin(train_clips=17, validation_clips=17, test_clips=17, frames=3, depth_channels=depth_channels)
    source = config.splits(0).test
    seen = source.seen(0)
    pictures = {
        "rgb": seen.rgb,
        "infrared": seen.infrared[..., None],
        "depth": seen.depth[..., None] / np.float32(1000),
    }
    window = config.camera_window
    assert (window.frames, window.step_us) == (3, 1_000_000)
    for name, sample in source[0].inputs.items():
        clip = CameraClip(pictures[name], config.times_us.numpy(), np.ones(3, np.bool_))
        assert torch.allclose(clip_input(clip, window.spec), sample, atol=1e-5), name
