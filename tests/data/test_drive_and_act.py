import dataclasses
import itertools
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from affuse import AffuseError
from affuse.data.drive_and_act import SYNTHETIC, DriveAndAct, mean_over_splits
from affuse.data.drive_and_act_chunks import (
    CLASSES,
    Chunk,
    ChunkKey,
    pair_views,
    read_chunks,
    shared_participants,
    span,
)
from affuse.doctor import doctor, has_errors
from affuse.fit import fit
from affuse.recipe import resolve
from affuse.signals.cameras import CameraSpec
from affuse.signals.depth import DepthSpec

SHARED = Path(os.environ.get("AFFUSE_DATA", Path(__file__).parents[2] / "../shared/data"))
REAL = SHARED / "annotations" / "drive_and_act" / "midlevel.chunks_90.split_0.train.csv"
needs_real = pytest.mark.skipif(not REAL.is_file(), reason="AFFUSE_DATA holds no annotations of Drive&Act")


def chunk(number: int, label: str = "drinking", start: int = 0, participant: int = 1, run: str = "run1") -> Chunk:
    return Chunk(ChunkKey(participant, run, number, 0), "kinect_color", start, start + 10, label)


@needs_real
def test_the_real_annotations_parse_completely_and_invent_nothing() -> None:
    chunks = read_chunks(REAL)
    assert len(chunks) == 6642 and len({c.key for c in chunks}) == 6642
    assert {c.label for c in chunks} == set(CLASSES) and len(CLASSES) == 34
    assert {c.key.participant for c in chunks} == {1, 2, 3, 4, 6, 7, 8, 9, 10, 12}
    assert len({c.key.recording for c in chunks}) == 19 and {c.suffix for c in chunks} == {"kinect_color"}
    assert "vp8/run1d_2018-05-23-14-54-38" in {c.key.recording for c in chunks}  # a run letter beyond b
    labels = Counter(c.label for c in chunks)
    assert labels["sitting_still"] == 1810 and labels["looking_or_moving_around (e.g. searching)"] == 74


@needs_real
def test_chunks_of_the_real_annotations_meet_at_the_frame_end() -> None:
    """What the default of frame_end rests on: read inclusively, most chunks would share a frame with the next one."""
    chunks = read_chunks(REAL)
    following = [(a, b) for a, b in itertools.pairwise(chunks) if a.key.recording == b.key.recording]
    inside = [b.frame_start - a.frame_end for a, b in following if a.key.annotation == b.key.annotation]
    assert len(inside) == 4494 and set(inside) == {0}
    assert max(c.frame_end - c.frame_start for c in chunks) == 50  # three seconds at about 15 frames a second


def test_the_classes_are_in_alphabetical_order_and_keep_the_odd_name() -> None:
    assert list(CLASSES) == sorted(set(CLASSES))
    assert CLASSES[11] == "looking_or_moving_around (e.g. searching)"


def test_columns_are_found_by_name_and_objects_become_labels(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "chunk_id,participant_id,file_id,annotation_id,frame_start,frame_end,activity,object,location\r\n"
        "3,5,vp5/run2_x.ids_1,7,10,55,reaching_for,bottle,center_console\r\n"
    )
    for label, said in (
        ("activity", "reaching_for"),
        ("object", "bottle"),
        ("all", "reaching_for bottle center_console"),
    ):
        (row,) = read_chunks(tmp_path / "a.csv", "objectlevel", label)  # type: ignore[arg-type]
        assert row == Chunk(ChunkKey(5, "run2_x", 7, 3), "ids_1", 10, 55, said)
    with pytest.raises(AffuseError, match="midlevel has activities only"):
        read_chunks(tmp_path / "a.csv", "midlevel", "object")


def test_views_are_paired_by_name_and_not_by_position() -> None:
    rgb = [chunk(1, start=10), chunk(2, start=20), chunk(3, start=30)]
    depth = [chunk(3, start=7), chunk(1, start=5)]
    pairing = pair_views({"rgb": rgb, "depth": depth})
    starts = [{name: row.frame_start for name, row in paired.rows.items()} for paired in pairing.chunks]
    assert starts == [{"rgb": 10, "depth": 5}, {"rgb": 20}, {"rgb": 30, "depth": 7}]
    assert pairing.lacking == {"rgb": 0, "depth": 1}


def test_runs_of_one_name_and_different_people_are_not_paired() -> None:
    pairing = pair_views({"rgb": [chunk(1, participant=1)], "depth": [chunk(1, participant=2)]})
    assert [list(paired.rows) for paired in pairing.chunks] == [["rgb"], ["depth"]]
    assert pairing.lacking == {"rgb": 1, "depth": 1}


def test_a_view_that_calls_a_chunk_otherwise_is_not_believed() -> None:
    pairing = pair_views({"rgb": [chunk(1, "drinking")], "depth": [chunk(1, "eating")]})
    (paired,) = pairing.chunks
    assert paired.label == "drinking" and list(paired.rows) == ["rgb"]
    assert pairing.conflicts == {"rgb": (), "depth": (paired.key,)} and pairing.lacking["depth"] == 0


@settings(max_examples=60)
@given(st.lists(st.sets(st.integers(0, 12)), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_every_row_of_every_view_stands_in_exactly_one_pair(views: list[set[int]], random: object) -> None:
    rows = {f"view{i}": [chunk(n, start=100 * i + n) for n in sorted(numbers)] for i, numbers in enumerate(views)}
    for group in rows.values():
        random.shuffle(group)  # type: ignore[attr-defined]
    pairing = pair_views(rows)
    assert [paired.key.annotation for paired in pairing.chunks] == sorted(set().union(*views))
    back = {name: {c.rows[name] for c in pairing.chunks if name in c.rows} for name in rows}
    assert back == {name: set(group) for name, group in rows.items()}


def test_participants_in_two_parts_are_named() -> None:
    one, two = (
        pair_views({"rgb": [chunk(1, participant=3)]}).chunks,
        pair_views({"rgb": [chunk(1, participant=4)]}).chunks,
    )
    assert shared_participants({"train": one, "test": two}) == []
    assert shared_participants({"train": [*one, *two], "validation": two, "test": one}) == ["vp3", "vp4"]


@given(st.integers(0, 100), st.integers(0, 100))
def test_an_inclusive_end_adds_one_frame_and_no_span_is_empty(start: int, length: int) -> None:
    row = Chunk(ChunkKey(1, "run1", 1, 0), "kinect_color", start, start + length, "drinking")
    exclusive, inclusive = span(row, "exclusive"), span(row, "inclusive")
    assert exclusive == (start, start + max(length, 1)) and inclusive == (start, start + length + 1)


# -- folders in the layout of the data set ---------------------------------------------------------------------------------

HEAD = "participant_id,file_id,annotation_id,frame_start,frame_end,activity,chunk_id"
VIEWS = ("kinect_color", "kinect_ir", "kinect_depth")
RUN = "run1b_2018-05-29-14-02-47"
LENGTH, RATE = 62, 15
SHIFT = {"kinect_color": 0, "kinect_ir": 3, "kinect_depth": 6}  # each view counts its own frames
PARTS = {"train": (1, 2), "val": (3,), "test": (4,)}
BARE = CameraSpec(
    size=16, rgb_mean=0.0, rgb_std=1.0, infrared_mean=0.0, infrared_std=1.0, depth=DepthSpec(coded_far_m=2.55)
)


def brightness(frame: int) -> int:
    """By which a test knows the number of a frame."""
    return 10 + 4 * frame


def write_mp4(path: Path, frames: int = LENGTH) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"qp": "0", "g": "12", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for number in range(frames):
            image = np.full((24, 32, 3), brightness(number), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def write_csv(root: Path, view: str, part: str, rows: list[tuple[int, int, int, int, str]], split: int = 0) -> None:
    """Rows of participant, annotation, first frame and frame_end in kinect_color, activity."""
    folder = root / "activities_3s" / view
    folder.mkdir(parents=True, exist_ok=True)
    shift = SHIFT[view]
    lines = [f"{p},vp{p}/{RUN}.{view},{a},{start + shift},{end + shift},{label},0" for p, a, start, end, label in rows]
    (folder / f"midlevel.chunks_90.split_{split}.{part}.csv").write_text("\n".join([HEAD, *lines]) + "\n")


def write_drive_and_act(root: Path, splits: tuple[int, ...] = (0,)) -> Path:
    write_mp4(root / "film.mp4")
    for part, people in PARTS.items():
        rows = []
        for person in people:
            rows += [(person, 1, 5, 50, "drinking"), (person, 2, 50, 54, "looking_or_moving_around (e.g. searching)")]
        for view in VIEWS:
            for split in splits:
                write_csv(root, view, part, rows, split)
            for person in people:
                (root / view / f"vp{person}").mkdir(parents=True, exist_ok=True)
                shutil.copy(root / "film.mp4", root / view / f"vp{person}" / f"{RUN}.{view}.mp4")
    (root / "film.mp4").unlink()
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drive_and_act(tmp_path_factory.mktemp("made") / "drive")


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Path:
    """A folder that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "drive"))


def small(root: Path, **changes: Any) -> DriveAndAct:
    return DriveAndAct(str(root), **{"frames": 3, "pick": "uniform", "cameras": BARE, **changes})


def shown(images: torch.Tensor) -> list[int]:
    """Numbers of the frames that a tensor shows, by their brightness."""
    return [round((255 * float(value) - 10) / 4) for value in images.mean((1, 2, 3))]


def test_each_view_gives_the_same_parts_of_a_chunk_by_its_own_frame_numbers(made: Path) -> None:
    splits = small(made).splits(0)
    assert splits.facts["counts"] == {"train": 4, "validation": 2, "test": 2} and not splits.synthetic
    assert splits.task.classes == CLASSES
    sample = splits.test[0]
    assert {name: tuple(x.shape) for name, x in sample.inputs.items()} == {
        "rgb": (3, 3, 16, 16),
        "infrared": (3, 1, 16, 16),
        "depth": (3, 1, 16, 16),
    }
    # 45 frames from 5 on, in three parts of 15: the middles; infrared begins 3 frames later in its own file.
    assert shown(sample.inputs["rgb"]) == [12, 27, 42]
    assert shown(sample.inputs["infrared"]) == [15, 30, 45]
    metres = sample.inputs["depth"] * BARE.depth.std_m + BARE.depth.mean_m
    assert torch.allclose(metres.mean((1, 2, 3)), torch.tensor([0.82, 1.42, 2.02]), atol=0.01)
    assert sample.target == CLASSES.index("drinking")
    assert sample.meta["id"] == f"vp4/{RUN}/1_0" and sample.meta["subject"] == "vp4"


def test_times_count_from_the_beginning_of_the_chunk_in_every_view(made: Path) -> None:
    times = small(made).splits(0).test[0].times_us
    wanted = torch.tensor([7, 22, 37]) * 1e6 / RATE
    for name in ("rgb", "infrared", "depth"):
        assert (times[name] - wanted).abs().max() <= 2, name


def test_the_frame_end_is_a_setting(made: Path) -> None:
    def last(frame_end: str) -> int:
        config = small(made, frame_end=frame_end, frames=200, views={"rgb": "kinect_color"})
        return shown(config.splits(0).test[0].inputs["rgb"])[-1]

    assert last("exclusive") == 49 and last("inclusive") == 50


def test_random_frames_are_drawn_in_training_alone_and_alike_in_all_views(made: Path) -> None:
    splits = small(made, pick="random", frames=5).splits(0)
    torch.manual_seed(0)
    first, second = splits.train[0], splits.train[0]
    assert shown(first.inputs["rgb"]) != shown(second.inputs["rgb"])
    numbers = shown(first.inputs["rgb"])
    assert shown(first.inputs["infrared"]) == [number + SHIFT["kinect_ir"] for number in numbers]
    assert all(5 + 9 * part <= number < 5 + 9 * (part + 1) for part, number in enumerate(numbers))
    assert torch.equal(splits.test[0].inputs["rgb"], splits.test[0].inputs["rgb"])


def test_extracted_frames_are_read_by_the_numbers_of_the_csv(own: Path) -> None:
    folder = own / "kinect_color_frames" / "vp4" / RUN
    folder.mkdir(parents=True)
    for number in range(5, LENGTH):
        if number != 27:
            cv2.imwrite(str(folder / f"frame_{number:05d}.png"), np.full((24, 32, 3), brightness(number), np.uint8))
    (folder / "frame_00042.png").write_bytes(b"\x89PNG broken")
    shutil.rmtree(own / "kinect_color" / "vp4")
    rgb = small(own).splits(0).test[0].inputs["rgb"]
    assert shown(rgb[:1]) == [12]
    assert rgb[1:].isnan().all()  # one is missing, one broken: marked, not invented
    videos = small(own, source="videos", max_bad_fraction=0.2).splits(0)
    assert list(videos.test[0].inputs) == ["infrared", "depth"]


@pytest.mark.parametrize("form", ["02d", "06d", "d"])
def test_extracted_frames_may_be_numbered_in_any_width(own: Path, form: str) -> None:
    folder = own / "kinect_color_frames" / "vp4" / RUN
    folder.mkdir(parents=True)
    for number in range(5, LENGTH):
        image = np.full((24, 32, 3), brightness(number), np.uint8)
        cv2.imwrite(str(folder / f"frame_{number:{form}}.png"), image)
    assert shown(small(own).splits(0).test[0].inputs["rgb"]) == [12, 27, 42]


def test_depth_pictures_of_16_bits_are_millimetres(own: Path) -> None:
    folder = own / "kinect_depth_frames" / "vp4" / RUN
    folder.mkdir(parents=True)
    for number in range(6, LENGTH):
        image = np.full((24, 32), 1000 + number, np.uint16)
        image[:12] = 0
        cv2.imwrite(str(folder / f"frame_{number:05d}.png"), image)
    spec = dataclasses.replace(BARE, depth=DepthSpec(form="metric_valid", mean_m=0.0, std_m=1.0))
    depth = small(own, views={"depth": "kinect_depth"}, cameras=spec, source="frames", max_bad_fraction=0.9)
    with pytest.raises(AffuseError, match="no usable chunk"):
        depth.splits(0)
    both = small(own, views={"depth": "kinect_depth", "rgb": "kinect_color"}, cameras=spec, max_bad_fraction=0.9)
    found = both.splits(0).test[0].inputs["depth"]
    assert found.shape == (3, 2, 16, 16)
    assert torch.allclose(found[:, 0, 15, 0], torch.tensor([1.018, 1.033, 1.048]), atol=1e-4)
    assert (found[:, :, 0] == 0).all() and (found[:, 1, 15] == 1).all()


def test_a_chunk_that_a_view_lacks_is_absent_there_or_dropped(own: Path) -> None:
    write_csv(own, "kinect_ir", "test", [(4, 2, 50, 54, "looking_or_moving_around (e.g. searching)")])
    splits = small(own).splits(0)
    assert list(splits.test[0].inputs) == ["rgb", "depth"] and len(splits.test[1].inputs) == 3
    assert splits.facts["chunks_lacking"] == {"rgb": 0, "infrared": 1, "depth": 0} and splits.facts["dropped"] == 0
    dropped = small(own, missing="drop").splits(0)
    assert len(dropped.test) == 1 and dropped.facts["dropped"] == 1


def test_missing_damaged_and_short_recordings_are_counted_named_and_stop_the_run_where_too_many(own: Path) -> None:
    (own / "kinect_ir" / "vp4" / f"{RUN}.kinect_ir.mp4").unlink()
    (own / "kinect_depth" / "vp1" / f"{RUN}.kinect_depth.mp4").write_bytes(b"no video")
    write_mp4(own / "kinect_color" / "vp2" / f"{RUN}.kinect_color.mp4", frames=30)
    with pytest.raises(AffuseError, match=r"5 of 24 chunks and views .*kinect_depth/vp1/.*not a video.*doctor --data"):
        small(own).splits(0)
    splits = small(own, max_bad_fraction=0.3).splits(0)
    assert list(splits.test[0].inputs) == ["rgb", "depth"]
    assert list(splits.train[0].inputs) == ["rgb", "infrared"]
    # The short one: its first chunk is read as far as the recording goes, its second lies behind the end.
    assert shown(splits.train[2].inputs["rgb"]) == [9, 17, 25]
    assert list(splits.train[3].inputs) == ["infrared", "depth"]
    assert splits.facts["recordings_bad"] == 3
    assert sum("missing" in name for name in splits.facts["bad_names"]) == 1


def test_facts_state_participants_absent_classes_and_what_the_metrics_are(own: Path) -> None:
    facts = small(own).splits(0).facts
    assert facts["subjects_shared"] == []
    assert facts["participants"] == {"train": ["vp1", "vp2"], "validation": ["vp3"], "test": ["vp4"]}
    assert len(facts["classes_absent"]["test"]) == 32 and "drinking" not in facts["classes_absent"]["test"]
    assert "mean-1 is uar" in facts["metrics"] and "top-1 is war" in facts["metrics"]
    for view in VIEWS:
        write_csv(own, view, "test", [(1, 1, 5, 50, "drinking")])
    (own / SYNTHETIC).touch()
    splits = small(own).splits(0)
    assert splits.facts["subjects_shared"] == ["vp1"] and splits.synthetic


def test_a_class_that_is_none_of_the_34_is_an_error_unless_it_is_asked_for(own: Path) -> None:
    for view in VIEWS:
        write_csv(own, view, "test", [(4, 1, 5, 50, "closing_backpack")])
    with pytest.raises(AffuseError, match=r"'closing_backpack' is none of the 34.*data.classes"):
        small(own).splits(0)
    found = small(own, classes="found").splits(0)
    assert found.task.classes == ("closing_backpack", "drinking", CLASSES[11]) and found.test[0].target == 0


def test_impossible_settings_are_errors() -> None:
    for changes, named in (
        ({"split": 3}, "split is 0, 1 or 2"),
        ({"views": {}}, "at least one"),
        ({"views": {"rgb": "kinect_colour"}}, "no view 'kinect_colour'"),
        ({"views": {"depth": "kinect_color"}}, "kinect_color shows rgb"),
        ({"label": "object"}, "midlevel has activities only"),
        ({"frames": 0}, "frames must be at least 1"),
    ):
        with pytest.raises(AffuseError, match=named):
            DriveAndAct("somewhere", **changes)  # type: ignore[arg-type]
    DriveAndAct("somewhere", views={"infrared": "kinect_ir", "infrared_ceiling": "ceiling"})


def test_doctor_finds_a_whole_folder_whole_and_names_what_is_wrong(own: Path) -> None:
    report = doctor("drive_and_act", own)
    assert not has_errors(report)
    assert report["data"]["chunks"] == {"midlevel split 0": {"train": 4, "validation": 2, "test": 2}}
    assert report["data"]["participants"] == 4 and report["data"]["recordings"] == dict.fromkeys(VIEWS, 4)
    (own / "kinect_ir" / "vp4" / f"{RUN}.kinect_ir.mp4").unlink()
    write_mp4(own / "kinect_color" / "vp2" / f"{RUN}.kinect_color.mp4", frames=30)
    write_csv(own, "kinect_color", "test", [(1, 1, 5, 50, "closing_backpack")])
    write_csv(own, "kinect_ir", "val", [(3, 1, 5, 50, "eating")])
    (own / "activities_3s" / "kinect_depth" / "midlevel.chunks_90.split_0.train.csv").write_text("x")
    said = [f"{f['severity']} {f['what']}" for f in doctor("drive_and_act", own)["findings"]]
    wanted = (
        f"1 of 9 recordings cannot be read: kinect_ir/vp4/{RUN}.kinect_ir.mp4: missing",
        "1 recordings end before their last chunk: kinect_color/vp2",
        f"error {own}: midlevel split 0: participants stand in two parts: vp1",
        f"error {own}: midlevel, split 0, test: 1 labels are none of the 34: closing_backpack",
        "validation: kinect_ir calls 1 chunks otherwise",
        "train: 4 chunks; the published file has 6642",
        "kinect_depth/midlevel.chunks_90.split_0.train.csv, line 1: no column participant_id",
    )
    assert [words for words in wanted if not any(words in line for line in said)] == [], "\n".join(said)


def test_doctor_names_a_folder_without_annotations_and_one_without_recordings(own: Path, tmp_path: Path) -> None:
    assert "no csv file in activities_3s" in doctor("drive_and_act", tmp_path / "none")["findings"][0]["what"]
    for view in VIEWS:
        shutil.rmtree(own / view)
    assert any("none of the 12 recordings" in f["what"] for f in doctor("drive_and_act", own)["findings"])


def write_run(
    folder: Path, split: int, uar: float, war: float, synthetic: bool = False, **settings: dict[str, Any]
) -> Path:
    """What a fit leaves of its settings and its score."""
    folder.mkdir()
    facts = {"name": "Drive&Act", "split_number": split, "classes_absent": {"test": ["writing"]}}
    facts |= settings.pop("facts", {})
    recipe = {"system": {"name": "mome"}, "data": {"split": split, "root": str(folder)}, "training": {"seed": split}}
    recipe = {section: {**values, **settings.get(section, {})} for section, values in recipe.items()}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "run.json").write_text(json.dumps({"selected_on": "validation", "synthetic": synthetic}))
    (folder / "metrics.json").write_text(json.dumps({"uar": {"value": uar}, "war": {"value": war}, "facts": facts}))
    return folder


def test_the_score_is_the_mean_over_the_three_splits(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"r{split}", split, 0.1 * split, 0.3 * split) for split in (2, 0, 1)]
    found = mean_over_splits(runs)
    assert found["mean_1"] == {"value": pytest.approx(0.1), "by_split": [0.0, 0.1, 0.2]}
    assert found["top_1"]["value"] == pytest.approx(0.3)
    assert found["classes_absent"] == {"0": ["writing"], "1": ["writing"], "2": ["writing"]}
    assert found["selected_on"] == "validation" and found["synthetic"] is False
    with pytest.raises(AffuseError, match=r"the runs are of \[0, 2\]"):
        mean_over_splits(runs[:2])
    with pytest.raises(AffuseError, match="split 2 is there twice"):
        mean_over_splits([runs[0], runs[0], runs[1]])
    with pytest.raises(AffuseError, match="no such file"):
        mean_over_splits([tmp_path / "none"])
    elsewhere = write_run(tmp_path / "elsewhere", 1, 0.5, 0.5)
    said = json.loads((elsewhere / "metrics.json").read_text())
    (elsewhere / "metrics.json").write_text(json.dumps({**said, "other_data": True}))
    with pytest.raises(AffuseError, match="evaluated on other data than the run's own"):
        mean_over_splits([elsewhere])
    for content in ("[]", "{", '{"facts": {"name": "Drive&Act", "split_number": 1}}'):
        (runs[0] / "metrics.json").write_text(content)
        with pytest.raises(AffuseError, match="not a finished run on Drive&Act"):
            mean_over_splits(runs)
    with pytest.raises(AffuseError, match="not of a split of Drive&Act"):
        mean_over_splits([write_run(tmp_path / "eyes", 1, 0.0, 0.0, facts={"name": "eyes"})])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"data": {"level": "tasklevel"}}, "data.level"),
        ({"system": {"name": "unimodal"}}, "system.name"),
        ({"training": {"select_on": "test"}}, "training.select_on"),
        ({"synthetic": True}, "synthetic"),
    ],
)
def test_only_runs_of_one_protocol_make_a_score(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    runs = [write_run(tmp_path / f"r{split}", split, 0.5, 0.5) for split in (0, 2)]
    with pytest.raises(AffuseError, match=f"the runs differ in {named}; train them alike"):
        mean_over_splits([*runs, write_run(tmp_path / "other", 1, 0.5, 0.5, **change)])


def test_a_made_folder_with_lost_frames_trains_and_its_metrics_are_a_split_s_score(own: Path, tmp_path: Path) -> None:
    (own / "kinect_ir" / "vp1" / f"{RUN}.kinect_ir.mp4").unlink()
    write_mp4(own / "kinect_color" / "vp2" / f"{RUN}.kinect_color.mp4", frames=30)
    recipe = resolve(
        {
            "system": {"name": "mome", "size": 32, "frames": 4, "width": 16, "layers": 1, "heads": 2},
            "data": {
                "name": "drive_and_act",
                "root": str(own),
                "frames": 4,
                "cameras": {"size": 32, "depth": {"coded_far_m": 2.55}},
                "max_bad_fraction": 0.3,
            },
            "training": {"epochs": 1, "batch_size": 4},
        },
        "a test",
    )
    run = fit(recipe, tmp_path / "run", progress=False, with_report=False)
    found = json.loads((run / "metrics.json").read_text())
    assert found["samples"] == 2 and found["unanswered"] == 0 and set(found["unimodal"]) == {"rgb", "infrared", "depth"}
    assert json.loads((run / "history.jsonl").read_text())["train/total"] > 0
    # Recall over the two classes that the test part has, not over all 34: half of them right is 0.5.
    assert found["uar"]["value"] in (0.0, 0.5, 1.0) and found["uar"]["value"] == found["war"]["value"]
    assert found["facts"]["views"]["depth"] == "kinect_depth"
    with pytest.raises(AffuseError, match=r"the runs are of \[0\]"):
        mean_over_splits([run])


def test_a_recording_is_answered_in_windows_as_long_as_a_chunk() -> None:
    window = DriveAndAct("somewhere", frames=16).camera_window
    assert window.frames == 16 and window.step_us == 187_500 and window.span_us == 3_000_000
