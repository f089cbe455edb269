"""Clips of faces and lists in the forms of DFEW, small, for tests."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import av
import cv2
import numpy as np

CLASSES = 7
GRAY_STEP = 10


def picture(gray: int, size: int = 16) -> np.ndarray:
    """A picture of one gray, so that a sample tells which frame it came from."""
    return np.full((size, size, 3), gray, np.uint8)


def write_pictures(folder: Path, names: Sequence[str], size: int = 16) -> Path:
    """Frame k of the list is gray 10 (k + 1)."""
    folder.mkdir(parents=True)
    for place, name in enumerate(names):
        cv2.imwrite(str(folder / name), picture(GRAY_STEP * (place + 1), size))
    return folder


def write_video(path: Path, frames: Sequence[np.ndarray], fps: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_csv_lists(root: Path, parts: Mapping[str, Mapping[int, int]], fold: int = 1) -> None:
    """DFEW's csv files; `parts` says the class index by the clip's number."""
    for part, targets in parts.items():
        folder = root / "EmoLabel_DataSplit" / f"{part}(single-labeled)"
        folder.mkdir(parents=True, exist_ok=True)
        rows = [f"{number},{target + 1}" for number, target in targets.items()]
        (folder / f"set_{fold}.csv").write_text("\n".join(["video_name,label", *rows]) + "\n")


def write_txt_lists(folder: Path, parts: Mapping[str, Mapping[int, int]], fold: int = 1) -> None:
    """Former-DFER's lists, with the folders of somebody's machine in front."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, targets in parts.items():
        rows = [f"/home/somebody/DFEW_Face/{number:05d} 20 {target}" for number, target in targets.items()]
        (folder / f"DFEW_set_{fold}_{part}.txt").write_text("\n".join(rows) + "\n")


def small_parts(train_each: int = 2) -> dict[str, dict[int, int]]:
    """Train: `train_each` clips of each class, from number 1 on; test: one of each, from 2001 on."""
    train = {1 + number: number % CLASSES for number in range(train_each * CLASSES)}
    return {"train": train, "test": {2001 + index: index for index in range(CLASSES)}}
