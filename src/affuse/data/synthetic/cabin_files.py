"""Writes the synthetic cabin as a folder in Drive&Act's layout, so that the reader of real data reads it."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from affuse.data.synthetic.cabin import Cabin, plans, record, truth_of
from affuse.data.synthetic.cabin_sensors import Seen
from affuse.data.synthetic.plans import SPLITS, Plan, Split, new_folder
from affuse.types import AffuseError

VIEWS = ("kinect_color", "kinect_ir", "kinect_depth")
RUN = "run1_2000-01-01-00-00-00"  # one recording a person; of no real day
_PARTS = {"train": "train", "validation": "val", "test": "test"}
_COLUMNS = ("participant_id", "file_id", "annotation_id", "frame_start", "frame_end", "activity", "chunk_id")


def write_drive_and_act(config: Cabin, root: str | Path, seed: int) -> None:
    """Write the world in Drive&Act's layout, as `affuse.data.drive_and_act` describes it.

    Each person is a participant with one recording, in which their clips follow one another; a clip is a chunk, and its
    frame_end is the frame behind its last one. Frames are PNG files: 8-bit colour, 8-bit infrared, and depth as 16-bit
    millimetres, 0 where there was no answer. Split 0 is the world's own; 1 and 2 deal the same people out anew, so that over
    the three each stands in another part where the sizes allow. ``truth.json`` holds the truth by chunk, and a file
    ``SYNTHETIC`` says what this is.

    Args:
        config: the world; its length and size are those of the files.
        root: a new or empty folder.
        seed: of the world, where the config has none.

    Raises:
        AffuseError: `root` exists and is not an empty folder, or cannot be written.
    """
    root = new_folder(root, "cabin")
    world = config.world_seed if config.world_seed is not None else seed
    people: dict[int, list[Plan]] = {}
    for split in SPLITS:
        for plan in plans(config, split, world):
            people.setdefault(plan.subject, []).append(plan)
    truth: dict[str, Any] = {}
    try:
        for subject, planned in people.items():
            for number, plan in enumerate(planned):
                seen = record(config, plan)
                _write_frames(root, subject, number * config.frames, seen)
                truth[f"vp{subject + 1}/{RUN}/{number}_0"] = truth_of(plan, seen)
        for number in range(len(SPLITS)):
            for split, members in _dealt(people, number).items():
                for view in VIEWS:
                    name = f"midlevel.chunks_90.split_{number}.{_PARTS[split]}.csv"
                    _write_chunks(root / "activities_3s" / view / name, view, members, people, config.frames)
        for view in VIEWS:
            everybody = root / "activities_3s" / view / "midlevel.chunks_90.csv"
            _write_chunks(everybody, view, list(people), people, config.frames)
        (root / "truth.json").write_text(json.dumps(truth, indent=1))
        (root / "SYNTHETIC").write_text(f"A simulation: the synthetic cabin of affuse, world seed {world}.\n")
    except OSError as error:
        raise AffuseError(f"{root}: cannot write the cabin ({error.strerror}); choose another folder") from None


def _dealt(people: dict[int, list[Plan]], number: int) -> dict[Split, list[int]]:
    """The people of each part of a split, turned round by a third from split to split."""
    order = list(people)
    turn = number * len(order) // len(SPLITS)
    order = order[turn:] + order[:turn]
    dealt: dict[Split, list[int]] = {}
    for split in SPLITS:
        count = sum(planned[0].split == split for planned in people.values())
        dealt[split], order = order[:count], order[count:]
    return dealt


def _write_frames(root: Path, subject: int, first: int, seen: Seen) -> None:
    # OpenCV writes blue first.
    pictures: dict[str, NDArray[Any]] = {
        "kinect_color": np.ascontiguousarray(seen.rgb[..., ::-1]),
        "kinect_ir": seen.infrared,
        "kinect_depth": seen.depth,
    }
    for view, images in pictures.items():
        folder = root / f"{view}_frames" / f"vp{subject + 1}" / RUN
        folder.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images, first):
            _, content = cv2.imencode(".png", image)
            (folder / f"frame_{number:05d}.png").write_bytes(content.tobytes())


def _write_chunks(path: Path, view: str, members: Sequence[int], people: dict[int, list[Plan]], frames: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for subject in members:
            for number, plan in enumerate(people[subject]):
                file_id = f"vp{subject + 1}/{RUN}.{view}"
                span = (number * frames, (number + 1) * frames)
                writer.writerow((subject + 1, file_id, number, *span, plan.label, 0))
