"""Writes the synthetic face world as a folder in DFEW's layout, so that the reader of real data reads it."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from affuse.data.synthetic.faces import CLASSES, Faces, Plan, draw_frames, plans, scene_of, truth_of
from affuse.data.synthetic.plans import SPLITS, new_folder
from affuse.signals.frame_sampling import uniform
from affuse.types import AffuseError

Form = Literal["frames", "frames_16", "avi", "original"]
FOLDERS: dict[Form, str] = {
    "frames": "clip_224x224",
    "frames_16": "clip_224x224_16f",
    "avi": "clip_224x224_avi",
    "original": "original",
}
FOLDS = 5


def write_dfew(
    config: Faces, root: str | Path, seed: int, *, forms: Sequence[Form] = ("frames_16",), size: int = 224
) -> None:
    """Write the world in DFEW's layout, as `affuse.data.dfew_files` describes it.

    Clips are numbered from 1, the training clips first. In fold 1, train is the world's train and validation, and test is its
    test; the other folds deal the same people out anew. ``truth.json`` holds the truth by number, and a file ``SYNTHETIC``
    says what this is.

    Args:
        config: the world; its lengths, fps and people are those of the files, its `input` plays no part.
        root: a new or empty folder.
        seed: of the world, where the config has none.
        forms: ``frames``, all of a clip; ``frames_16``, 16 of them; ``avi``, the same faces as a video; ``original``, an mp4
            film in which the face is a part of the picture.
        size: side of the faces, pixels; 224 in DFEW.

    Raises:
        AffuseError: no form, or an unknown one; `size` is odd or below 16; `root` exists and is not an empty folder, or cannot
            be written.
    """
    unknown = [form for form in forms if form not in FOLDERS]
    if unknown or not forms:
        raise AffuseError(f"forms {unknown} are unknown, or none is given; there are {list(FOLDERS)}")
    if size < 16 or size % 2:
        raise AffuseError(f"size {size}: faces are written with an even number of pixels, at least 16")
    root = new_folder(root, "faces")
    world = config.world_seed if config.world_seed is not None else seed
    numbered = list(enumerate((plan for split in SPLITS for plan in plans(config, split, world)), 1))
    truth: dict[str, Any] = {}
    try:
        for fold in range(1, FOLDS + 1):
            tested = _tested(config, fold)
            for part in ("train", "test"):
                listed = [(n, plan) for n, plan in numbered if (plan.subject in tested) == (part == "test")]
                _write_list(root / "EmoLabel_DataSplit" / f"{part}(single-labeled)" / f"set_{fold}.csv", listed)
        for number, plan in numbered:
            scene, every = scene_of(config, plan), np.arange(plan.frames)
            images, _ = draw_frames(scene, every, size, config.oversampling)
            for form in forms:
                _write_clip(root / "Clip" / FOLDERS[form], form, number, images[..., ::-1], config.fps)
            truth[str(number)] = {
                "expression": plan.expression,
                "subject": plan.subject,
                "condition": plan.condition,
                **truth_of(scene, every),
            }
        (root / "truth.json").write_text(json.dumps(truth))
        (root / "SYNTHETIC").write_text(f"A simulation: the synthetic faces of affuse, world seed {world}.\n")
    except OSError as error:
        raise AffuseError(f"{root}: cannot write the faces ({error.strerror}); choose another folder") from None


def _tested(config: Faces, fold: int) -> set[int]:
    """The people of a fold's test part: the last ones in fold 1, and from there round the circle."""
    total = config.train_subjects + config.validation_subjects + config.test_subjects
    last = total - (fold - 1) * total // FOLDS
    return {(last - 1 - i) % total for i in range(config.test_subjects)}


def _write_list(path: Path, listed: Sequence[tuple[int, Plan]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("video_name", "label"))
        writer.writerows((number, 1 + CLASSES.index(plan.expression)) for number, plan in listed)


def _write_clip(folder: Path, form: Form, number: int, images: NDArray[np.uint8], fps: float) -> None:
    """One clip; `images` (t, s, s, 3) have blue first, as OpenCV and video codecs here want it."""
    folder.mkdir(parents=True, exist_ok=True)
    if form == "avi":
        _write_video(folder / f"{number:05d}.avi", "mjpeg", "yuvj420p", images, fps)
    elif form == "original":
        side = images.shape[1]
        borders = (side // 4, side // 2, side // 2, side // 2)  # above, below, left, right
        framed = [cv2.copyMakeBorder(np.ascontiguousarray(image), *borders, cv2.BORDER_REPLICATE) for image in images]
        even = np.asarray(framed, np.uint8)[:, : len(framed[0]) // 2 * 2]  # as the codec wants it
        _write_video(folder / f"{number}.mp4", "mpeg4", "yuv420p", even, fps)
    else:
        clip = folder / f"{number:05d}"
        clip.mkdir()
        chosen = uniform(len(images), 16) if form == "frames_16" else np.arange(len(images))
        for place, frame in enumerate(chosen.tolist(), 1):
            name = f"{place}.jpg" if form == "frames_16" else f"{number:05d}_{place:05d}.jpg"
            _, content = cv2.imencode(".jpg", np.ascontiguousarray(images[frame]), [cv2.IMWRITE_JPEG_QUALITY, 95])
            (clip / name).write_bytes(content.tobytes())


def _write_video(path: Path, codec: str, pixels: str, images: NDArray[np.uint8], fps: float) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = images.shape[1], images.shape[2], pixels
        stream.bit_rate = 4_000_000
        for image in images:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
