"""The synthetic face world: what moves, where the landmarks are, how rare the classes are, and what is said to be true."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from affuse.data.dfew import DFEW
from affuse.data.synthetic.face_camera import CONDITIONS, OCCLUDERS
from affuse.data.synthetic.face_files import Form, write_dfew
from affuse.data.synthetic.face_motion import EXPRESSIONS, draw_motion, still
from affuse.data.synthetic.face_people import Person, draw_person
from affuse.data.synthetic.face_renderer import View, render
from affuse.data.synthetic.faces import (
    CLASSES,
    DFEW_TRAIN,
    SPLITS,
    Faces,
    FaceWorldClips,
    averted,
    class_counts,
    draw_frames,
    plans,
)
from affuse.signals.face_input import FaceInput
from affuse.types import AffuseError, Batch

SMALL = Faces(
    train_clips=60,
    validation_clips=20,
    test_clips=20,
    train_subjects=12,
    validation_subjects=4,
    test_subjects=5,
    least_test_per_class=6,
    input=FaceInput(frames=4, size=32, landmarks=True),
)


@pytest.fixture(scope="module")
def test_split() -> FaceWorldClips:
    return FaceWorldClips(SMALL, "test", 0)


def somebody(number: int = 3) -> Person:
    """Light skin, and nothing before the face."""
    pale = {"skin": np.full(3, 200.0), "lips": np.full(3, 140.0), "iris": np.full(3, 60.0), "hair": np.full(3, 40.0)}
    return replace(draw_person(np.random.default_rng(number)), **pale, glasses=0.0, beard=0.0, wrinkles=0.0)


def shown(units: dict[int, float], size: int = 96, pose: tuple[float, float, float] = (0, 0, 0)) -> View:
    """One picture of somebody with these action units."""
    motion = still(1)
    motion.pose[0] = pose
    for unit, level in units.items():
        motion.units[unit][0] = level
    return render(somebody(), motion, size)


# Where a unit must show, in [-1, 1]: top, bottom, left, right. A jaw that drops moves the whole lower face.
REGIONS = {
    1: (-0.75, -0.2, -0.55, 0.55),
    2: (-0.75, -0.2, -0.7, 0.7),
    4: (-0.65, 0.0, -0.6, 0.6),
    5: (-0.4, 0.0, -0.6, 0.6),
    6: (-0.55, 0.4, -0.8, 0.8),
    7: (-0.35, 0.05, -0.6, 0.6),
    9: (-0.6, 0.65, -0.6, 0.6),
    10: (0.0, 0.65, -0.5, 0.5),
    12: (-0.15, 0.75, -0.7, 0.7),
    15: (0.2, 0.8, -0.6, 0.6),
    17: (0.3, 1.0, -0.5, 0.5),
    20: (0.2, 0.8, -0.6, 0.6),
    23: (0.3, 0.7, -0.5, 0.5),
    25: (0.3, 0.8, -0.4, 0.4),
    26: (0.3, 1.0, -0.8, 0.8),
    43: (-0.4, 0.0, -0.6, 0.6),
    45: (-0.4, 0.05, -0.6, 0.6),
}


@pytest.mark.parametrize("unit", REGIONS)
def test_an_action_unit_moves_its_part_of_the_face(unit: int) -> None:
    change = np.abs(shown({unit: 1.0}).images - shown({}).images)[0].mean(-1)
    top, bottom, left, right = (round((edge + 1) * 48) for edge in REGIONS[unit])
    assert change[top:bottom, left:right].sum() > 0.9 * change.sum() > 0


def test_units_move_the_landmarks_as_their_muscles_do() -> None:
    """iBUG 300-W: 17-26 brows, 36-47 eyes, 48 and 54 corners of the mouth, 62 and 66 inner lips, 8 chin; y goes down."""
    rest = shown({}).landmarks[0]
    after = {unit: shown({unit: 1.0}).landmarks[0] - rest for unit in (1, 2, 4, 5, 7, 10, 12, 15, 20, 23, 26)}
    assert after[1][21, 1] < -0.05 and abs(after[1][17, 1]) < 0.03  # inner end of the brow, not the outer one
    assert after[2][18, 1] < -0.05
    assert after[4][21, 1] > 0.03 and after[4][21, 0] > 0.02 and after[4][22, 0] < -0.02  # down and together
    assert after[5][37, 1] < 0 < after[7][37, 1]
    assert after[10][[50, 52], 1].max() < -0.01
    for left, right in ((48, 54), (60, 64)):
        assert after[12][left, 1] < -0.05 and after[12][right, 0] > 0.03 and after[12][left, 0] < -0.03
        assert after[15][left, 1] > 0.05 and after[15][right, 1] > 0.05
        assert after[20][right, 0] > 0.03 and after[23][right, 0] < -0.02
    assert after[26][8, 1] > 0.08 and (after[26][66] - after[26][62])[1] > 0.08


@pytest.mark.parametrize("pose", [(0, 0, 0), (0.5, 0.1, 0.1), (-0.4, -0.2, -0.15)], ids=["ahead", "right", "left"])
def test_landmarks_lie_on_what_they_name(pose: tuple[float, float, float]) -> None:
    """Pupils are darker than the skin between the brows, an open mouth is dark between its lips, the jaw ends at the face."""
    view = shown({26: 0.9, 1: 0.1}, 192, pose)
    picture, marks = view.images[0].mean(-1), view.landmarks[0]

    def at(point: np.ndarray) -> float:
        column, row = np.round((point + 1) * 96 - 0.5).astype(int)
        return float(picture[row - 1 : row + 2, column - 1 : column + 2].mean())

    skin = at((marks[27] + marks[28]) / 2)
    assert skin > 140
    for eye in (marks[36:42], marks[42:48]):
        assert at(eye.mean(0)) < 0.5 * skin
    assert at(marks[60:68].mean(0)) < 0.5 * skin
    for brow in (marks[19], marks[24]):
        assert at(brow) < 0.75 * skin
    hidden = render(somebody(), replace(still(1), pose=np.array([pose], np.float32)), 192, averted=np.array([True]))
    assert np.isnan(hidden.landmarks).all()
    for edge, out in ((marks[3], -0.05), (marks[13], 0.05)):
        assert abs(at(edge - np.array([out, 0])) - skin) < abs(at(edge + np.array([out, 0])) - skin)


def test_landmarks_of_a_face_that_looks_ahead_are_in_order_and_nearly_symmetric() -> None:
    marks = shown({}).landmarks[0]
    pairs = [(i, 16 - i) for i in range(8)] + [(17 + i, 26 - i) for i in range(5)] + [(31, 35), (48, 54), (60, 64)]
    pairs += [(36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46), (50, 52), (58, 56), (61, 63), (67, 65)]
    for left, right in pairs:
        np.testing.assert_allclose(marks[left] * [-1, 1], marks[right], atol=1e-5)
    assert all((np.diff(marks[span, 0]) > 0).all() for span in (slice(0, 17), slice(17, 27), slice(31, 36)))
    assert (np.diff(marks[27:31, 1]) > 0).all()
    assert marks[19, 1] < marks[37, 1] < marks[41, 1] < marks[33, 1] < marks[51, 1] < marks[57, 1] < marks[8, 1]


def test_every_expression_but_neutral_shows_and_no_two_are_alike() -> None:
    looks = {name: shown(spec.variants[0]).images for name, spec in EXPRESSIONS.items()}
    np.testing.assert_array_equal(looks["neutral"], shown({}).images)
    names = list(looks)
    for i, one in enumerate(names):
        assert all(np.abs(looks[one] - looks[two]).mean() > 0.5 for two in names[:i])


def test_an_expression_rises_from_its_onset_to_its_apex_and_falls_from_its_offset() -> None:
    times = np.arange(200) / 25
    rng = np.random.default_rng(0)
    nobody_turns = np.zeros(200, np.bool_)
    for _ in range(10):
        motion = draw_motion("happy", times, rng, intensity=(1.0, 1.0), speech_probability=0.0, turned=nobody_turns)
        assert motion.onset_s is not None and motion.apex_s is not None and motion.offset_s is not None
        level = motion.units[12]
        assert motion.onset_s < motion.apex_s < motion.offset_s
        apex = level[(times >= motion.apex_s) & (times <= motion.offset_s)]
        rest = level[(times < motion.onset_s) | (times > motion.offset_s + 1)]
        assert apex.min() > 0.6 > 0.5 > rest.max(initial=0)
    neutral = draw_motion("neutral", times, rng, intensity=(1.0, 1.0), speech_probability=0.0, turned=nobody_turns)
    assert neutral.apex_s is None and max(neutral.units[unit].max() for unit in (1, 2, 9, 20, 26)) < 0.5


def test_classes_are_as_rare_as_in_dfew_and_evaluation_has_enough_of_each() -> None:
    config = Faces()
    train = class_counts(config, "train")
    assert sum(train) == 1400
    np.testing.assert_allclose(np.array(train) / 1400, np.array(DFEW_TRAIN) / 9356, atol=1 / 1400)
    assert train[CLASSES.index("disgust")] == 17
    for split in SPLITS:
        planned = Counter(plan.expression for plan in plans(config, split, 0))
        assert [planned[name] for name in CLASSES] == class_counts(config, split)
        assert split == "train" or min(planned.values()) == 30
    facts = SMALL.splits(0).facts
    assert facts["least_test_per_class"] == 6 and facts["class_counts"]["test"]["disgust"] == 6
    assert facts["counts"]["test"] == sum(class_counts(SMALL, "test"))
    assert set(class_counts(replace(config, shares="equal"), "train")) == {200}


def test_conditions_are_dealt_out_within_each_class() -> None:
    planned = plans(Faces(test_clips=700), "test", 0)
    for name in CLASSES:
        counts = Counter(plan.condition for plan in planned if plan.expression == name)
        assert abs(counts["clean"] / counts.total() - 0.4) < 0.02
        others = [counts[condition] for condition in CONDITIONS if condition != "clean"]
        assert max(others) - min(others) <= 1
    only = replace(SMALL, conditions=("clean",))
    assert {plan.condition for plan in plans(only, "train", 0)} == {"clean"}


def test_no_subject_stands_in_two_splits() -> None:
    people = [{plan.subject for plan in plans(SMALL, split, 0)} for split in SPLITS]
    assert people[0] <= set(range(12)) and people[1] <= set(range(12, 16)) and people[2] <= set(range(16, 21))
    every = [plan for split in SPLITS for plan in plans(SMALL, split, 0)]
    assert len({plan.id for plan in every}) == len({plan.seed for plan in every}) == len(every)


def test_the_same_seed_gives_the_same_world_whichever_clips_were_read_before(test_split: FaceWorldClips) -> None:
    again, other = FaceWorldClips(SMALL, "test", 0), FaceWorldClips(SMALL, "test", 1)
    for index in (9, 3):
        one, two = test_split[index], again[index]
        assert one.meta == two.meta
        assert all(torch.equal(one.inputs[name].nan_to_num(9), two.inputs[name].nan_to_num(9)) for name in one.inputs)
    assert not torch.equal(test_split[3].inputs["face"].nan_to_num(), other[3].inputs["face"].nan_to_num())
    assert replace(SMALL, world_seed=1).splits(0).facts["world_seed"] == 1


def test_a_frame_is_the_same_whether_it_is_drawn_alone_or_among_others(test_split: FaceWorldClips) -> None:
    for index in range(6):
        scene = test_split.scene(index)
        frames = np.arange(test_split.plans[index].frames)
        together, marks = draw_frames(scene, frames, 32)
        alone, mark = draw_frames(scene, frames[7:8], 32)
        np.testing.assert_array_equal(together[7], alone[0])
        np.testing.assert_array_equal(marks[7], mark[0])


def test_samples_hold_faces_landmarks_times_and_the_truth(test_split: FaceWorldClips) -> None:
    for index, plan in enumerate(test_split.plans[:20]):
        sample = test_split[index]
        assert sample.target == test_split.targets[index] == CLASSES.index(plan.expression)
        face, landmarks = sample.inputs["face"], sample.inputs["landmarks"]
        assert face.shape == (4, 3, 32, 32) and landmarks.shape == (4, 68, 2)
        truth = sample.meta["truth"]
        assert json.loads(json.dumps(truth)) == truth
        lost = torch.tensor(truth["disturbed"]) & (plan.condition == "averted")
        assert torch.equal(face.isnan().flatten(1).all(1), lost) and torch.equal(face.isnan().flatten(1).any(1), lost)
        assert torch.equal(landmarks.isnan().flatten(1).any(1), lost)
        assert (truth["apex_us"] is None) == (plan.expression == "neutral")
        assert (truth["occluder"] is not None) == (sample.meta["condition"] == "occluded")
        times = sample.times_us["face"]
        assert times.dtype == torch.int64 and int(times[-1]) < plan.frames * 80_000
        assert torch.equal(times, torch.tensor(SMALL.input.chosen(plan.frames)) * 80_000)
    assert SMALL.splits(0).synthetic
    batch = Batch.collate([test_split[i] for i in range(8)])
    assert batch.inputs["face"].shape == (8, 4, 3, 32, 32) and batch.present.all()


def test_landmarks_come_only_when_the_input_wants_them() -> None:
    plain = replace(SMALL, input=FaceInput(frames=2, size=16))
    assert set(plain.splits(0).test[0].inputs) == {"face"}


def test_a_disturbance_shows_in_the_frames_that_are_said_to_be_disturbed() -> None:
    config = replace(SMALL, test_clips=120, input=FaceInput(frames=8, size=32))
    clips = FaceWorldClips(config, "test", 0)
    brightness: dict[bool, list[float]] = {True: [], False: []}
    sharpness: dict[bool, list[float]] = {True: [], False: []}
    for index, plan in enumerate(clips.plans):
        if plan.condition in ("dark", "blurred"):
            sample = clips[index]
            for frame, disturbed in zip(sample.inputs["face"], sample.meta["truth"]["disturbed"], strict=True):
                if plan.condition == "dark":
                    brightness[disturbed].append(float(frame.mean()))
                else:
                    sharpness[disturbed].append(
                        float(frame.diff(dim=-1).abs().mean() + frame.diff(dim=-2).abs().mean())
                    )
    assert np.quantile(brightness[True], 0.9) < np.quantile(brightness[False], 0.1)
    assert np.median(sharpness[True]) < 0.6 * np.median(sharpness[False])
    turned = next(i for i, plan in enumerate(clips.plans) if plan.condition == "turned")
    scene = clips.scene(turned)
    yaw = np.abs(scene.motion.pose[:, 0])
    assert np.median(yaw[scene.take.disturbed]) > 0.3
    assert not averted(scene).any()


@pytest.mark.parametrize("occluder", OCCLUDERS)
def test_an_occluder_covers_a_part_of_the_face_in_the_disturbed_frames_alone(occluder: str) -> None:
    clips = FaceWorldClips(replace(SMALL, conditions=("occluded",)), "test", 0)
    scene = clips.scene(0)
    disturbed = np.arange(clips.plans[0].frames) % 2 == 0
    take = replace(scene.take, occluder=occluder, disturbed=disturbed, place=(0.0, 0.5))
    frames = np.arange(4)
    with_it, _ = draw_frames(replace(scene, take=take), frames, 48)
    without, _ = draw_frames(replace(scene, take=replace(take, occluder=None)), frames, 48)
    covered = (np.abs(with_it.astype(int) - without).max(-1) > 8).mean((1, 2))
    assert (covered[[0, 2]] > 0.02).all() and (covered[[0, 2]] < 0.7).all() and not covered[[1, 3]].any()


def test_training_takes_other_frames_each_time_and_torch_repeats_them() -> None:
    long = replace(SMALL, lengths=(40, 64), augment=None)
    torch.manual_seed(0)
    first = long.splits(0).train
    one, two = first[0], first[0]
    assert not torch.equal(one.times_us["face"], two.times_us["face"])
    torch.manual_seed(0)
    assert torch.equal(long.splits(0).train[0].times_us["face"], one.times_us["face"])
    test = long.splits(0).test
    assert torch.equal(test[0].times_us["face"], test[0].times_us["face"])


def test_training_faces_are_augmented_with_their_landmarks() -> None:
    still_ones = replace(
        SMALL, lengths=(2, 2), input=FaceInput(frames=2, size=32, landmarks=True), conditions=("clean",)
    )
    plain = replace(still_ones, augment=None).splits(0).train[0]
    torch.manual_seed(0)
    moved = still_ones.splits(0).train[0]
    apart = (moved.inputs["landmarks"] - plain.inputs["landmarks"]).abs()
    assert 0.005 < float(apart.mean()) < 0.5
    assert not torch.equal(moved.inputs["face"], plain.inputs["face"])
    test = [replace(still_ones, augment=augment).splits(0).test[0] for augment in (None, still_ones.augment)]
    assert torch.equal(test[0].inputs["face"], test[1].inputs["face"])


def test_clips_shorter_than_the_input_come_by_the_rule_for_short_clips() -> None:
    short = replace(SMALL, lengths=(5, 7), input=FaceInput(frames=8, size=16, short="repeat_last"))
    sample = short.splits(0).test[0]
    steps = sample.times_us["face"].diff()
    assert sample.inputs["face"].shape[0] == 8 and int(steps[-1]) == 0 and int(steps[0]) == 80_000


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"train_clips": 3}, "at least 7 clips"),
        ({"test_subjects": 0}, "at least 1"),
        ({"conditions": ("clean", "fog")}, "conditions"),
        ({"conditions": ()}, "conditions"),
        ({"intensity": (0.8, 0.2)}, "intensity"),
        ({"lengths": (1, 10)}, "lengths"),
        ({"clean_share": 1.5}, "clean_share"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(AffuseError, match=named):
        replace(SMALL, **wrong)  # type: ignore[arg-type]


TINY = replace(
    SMALL,
    train_clips=14,
    validation_clips=7,
    test_clips=7,
    shares="equal",
    least_test_per_class=1,
    lengths=(6, 9),
    world_seed=5,
)


@pytest.mark.parametrize("form", ["frames_16", "frames", "avi"])
def test_the_reader_of_dfew_reads_what_is_written(form: Form, tmp_path: Path) -> None:
    root = tmp_path / "world"
    write_dfew(TINY, root, 0, forms=(form,), size=32)
    truth = json.loads((root / "truth.json").read_text())
    assert len(truth) == 14 + 7 + 7 and "simulation" in (root / "SYNTHETIC").read_text()
    splits = DFEW(str(root), input=FaceInput(frames=4, size=32), augment=None, validation_share=0.3).splits(0)
    assert splits.task.classes == CLASSES
    assert len(splits.train) + len(splits.validation) == 21 and len(splits.test) == 7
    world = FaceWorldClips(TINY, "test", 5)
    for index, plan in enumerate(world.plans):
        sample = splits.test[index]
        assert truth[str(22 + index)]["expression"] == plan.expression == CLASSES[int(sample.target or 0)]
        assert sample.inputs["face"].shape == (4, 3, 32, 32)
        if plan.condition == "clean" and form == "frames":
            drawn, read = world[index].inputs["face"], sample.inputs["face"]
            assert float((drawn - read).abs().mean()) < 0.25  # what JPEG takes


def test_every_fold_has_people_of_its_own_in_train_and_test(tmp_path: Path) -> None:
    write_dfew(TINY, tmp_path / "world", 0, forms=("frames_16",), size=16)
    truth = json.loads((tmp_path / "world" / "truth.json").read_text())
    tested = []
    for fold in range(1, 6):
        people = []
        for part in ("train", "test"):
            path = tmp_path / "world" / "EmoLabel_DataSplit" / f"{part}(single-labeled)" / f"set_{fold}.csv"
            lines = path.read_text().split()[1:]
            people.append({truth[line.partition(",")[0]]["subject"] for line in lines})
            assert all(CLASSES.index(truth[n]["expression"]) + 1 == int(c) for n, c in (x.split(",") for x in lines))
        assert not people[0] & people[1] and people[1]
        tested.append(frozenset(people[1]))
    assert len(set(tested)) == 5


def test_the_original_form_is_a_film_around_the_face(tmp_path: Path) -> None:
    import av

    write_dfew(TINY, tmp_path / "world", 0, forms=("original",), size=32)
    with av.open(str(tmp_path / "world" / "Clip" / "original" / "1.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    plan = plans(TINY, "train", 5)[0]
    assert len(frames) == plan.frames and frames[0].shape == (56, 64, 3)


def test_writing_never_touches_a_folder_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(AffuseError, match="not an empty folder"):
        write_dfew(TINY, tmp_path, 0)
    with pytest.raises(AffuseError, match="none is given"):
        write_dfew(TINY, tmp_path / "new", 0, forms=())
    with pytest.raises(AffuseError, match="even number"):
        write_dfew(TINY, tmp_path / "new", 0, size=33)
