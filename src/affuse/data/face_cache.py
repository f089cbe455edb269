"""Faces found once and kept: a folder with one file a clip, so that training reads crops instead of searching for faces.

::

    OUT/3f2a.../pipeline.json      how the faces were found; the folder's name is a digest of it
    OUT/3f2a.../9c/9c41....npz     one clip: each crop as PNG, so that nothing is lost and single frames can be read
    OUT/3f2a.../refused.jsonl      clips that cannot be read, and why

A clip's file is named by its path below the data set's folder, its size and its time of change: a clip that changed is made
again, and a file is written beside and then renamed, so that what is there is whole. Nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from affuse.data.sound_and_frames import IMAGE_SUFFIXES
from affuse.signals.face import FaceClip, FacePipeline
from affuse.types import AffuseError

_FORMAT = 1
_REFUSED = "refused.jsonl"
_MAX_FRAMES = 200_000
_MAX_SIDE = 4096
_MEMBERS = {"crops": ("u1", 1), "stops": ("i8", 1), "times_us": ("i8", 1), "found": ("b1", 1), "landmarks": ("f4", 3)}


@dataclass(frozen=True)
class PreparedClip:
    """The faces of one clip, still packed.

    Args:
        times_us: (t,).
        found: (t,) frames with a face.
        landmarks: (t, 68, 2) in [-1, 1], NaN where there are none; None: not looked for.
        size: side of the crops.
        crops: the PNG files of the frames with a face, one behind the other (n,).
        stops: where each frame's ends (t,); a frame without a face has none.
    """

    times_us: NDArray[np.int64]
    found: NDArray[np.bool_]
    landmarks: NDArray[np.float32] | None
    size: int
    crops: NDArray[np.uint8]
    stops: NDArray[np.int64]

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The crops of some frames, RGB (k, size, size, 3); zeros where there is no face.

        Raises:
            ValueError: a crop is damaged.
        """
        out = np.zeros((len(indices), self.size, self.size, 3), np.uint8)
        for row, index in enumerate(indices):
            if not self.found[index]:
                continue
            start = int(self.stops[index - 1]) if index else 0
            image = cv2.imdecode(self.crops[start : int(self.stops[index])], cv2.IMREAD_COLOR)
            if image is None or image.shape[:2] != (self.size, self.size):
                raise ValueError(f"the crop of frame {index} is damaged")
            out[row] = image[..., ::-1]
        return out


class FaceCache:
    """Prepared clips of one pipeline, in a folder that may hold those of others.

    Args:
        folder: as `affuse data prepare` was told.
        root: the data set's folder, from which a clip's path counts.
        pipeline: how faces are found.
    """

    def __init__(self, folder: Path, root: Path, pipeline: FacePipeline) -> None:
        self.settings = _settings(pipeline)
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = folder / digest
        self._root = root.absolute()
        self._files: dict[Path, Path] = {}

    def require(self) -> None:
        """Refuse a folder in which nothing was prepared with this pipeline.

        Raises:
            AffuseError: it is so.
        """
        if not (self.folder / "pipeline.json").is_file():
            raise AffuseError(
                f"{self.folder.parent}: no faces prepared with these settings of data.input.pipeline; run 'affuse data "
                "prepare' with the same settings, or leave out data.cache"
            )

    def name_of(self, path: Path) -> str:
        """A clip's path below the data set's folder."""
        path = path.absolute()
        return path.relative_to(self._root).as_posix() if path.is_relative_to(self._root) else path.as_posix()

    def file_of(self, path: Path) -> Path:
        """Where a clip's faces lie or would lie."""
        file = self._files.get(path)
        if file is None:
            digest = hashlib.sha256(json.dumps([self.name_of(path), *_state(path)]).encode()).hexdigest()[:40]
            file = self._files[path] = self.folder / digest[:2] / f"{digest}.npz"
        return file

    def begin(self) -> None:
        """Make the folder; what was refused before is looked at again.

        Raises:
            OSError: it cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        _write_whole(self.folder / "pipeline.json", json.dumps(self.settings, indent=2).encode())
        (self.folder / _REFUSED).unlink(missing_ok=True)

    def refuse(self, path: Path, why: str) -> None:
        """Note that a clip cannot be read."""
        with (self.folder / _REFUSED).open("a", encoding="utf-8") as file:
            file.write(json.dumps([self.name_of(path), why]) + "\n")

    def refused(self) -> dict[str, str]:
        """Why clips could not be read, by their paths below the data set's folder."""
        try:
            rows = [json.loads(line) for line in (self.folder / _REFUSED).read_text(encoding="utf-8").splitlines()]
            return {str(name): str(why) for name, why in rows}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as error:
            raise AffuseError(f"{self.folder / _REFUSED}: cannot be read ({str(error)[:60]}); prepare again") from None

    def has(self, path: Path) -> bool:
        """Whether a clip is prepared; files are there whole or not at all."""
        return self.file_of(path).is_file()

    def load(self, path: Path) -> PreparedClip | None:
        """A clip's faces; None where they are not prepared, or their file is damaged."""
        try:
            return _read(self.file_of(path))
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile):
            return None

    def store(self, path: Path, clip: FaceClip) -> None:
        """Keep a clip's faces.

        Raises:
            OSError: the folder cannot be written.
        """
        file = self.file_of(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        packed = [_png(image) if found else b"" for image, found in zip(clip.images, clip.found, strict=True)]
        arrays: dict[str, Any] = {
            "crops": np.frombuffer(b"".join(packed), np.uint8),
            "stops": np.cumsum([len(png) for png in packed], dtype=np.int64),
            "times_us": clip.times_us.astype(np.int64),
            "found": clip.found,
        }
        if clip.landmarks is not None:
            arrays["landmarks"] = clip.landmarks.astype(np.float32)
        handle, name = tempfile.mkstemp(suffix=".part", dir=file.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                np.savez(stream, allow_pickle=False, size=np.int64(clip.images.shape[1]), **arrays)
            os.replace(name, file)
        except BaseException:
            os.unlink(name)
            raise


def _settings(pipeline: FacePipeline) -> dict[str, Any]:
    """What decides about the crops. Weights count by their content: their file may lie elsewhere."""
    settings = {"format": _FORMAT, **dataclasses.asdict(pipeline)}
    if pipeline.detector_weights is not None:
        try:
            settings["detector_weights"] = hashlib.sha256(Path(pipeline.detector_weights).read_bytes()).hexdigest()
        except OSError as error:
            raise AffuseError(
                f"{pipeline.detector_weights}: cannot be read ({error.strerror}); give the file"
            ) from None
    return settings


def _state(path: Path) -> list[int]:
    """Size and time of change; of a folder, of all its pictures together."""
    if not path.is_dir():
        about = path.stat()
        return [about.st_size, about.st_mtime_ns]
    count = size = latest = 0
    with os.scandir(path) as entries:
        for entry in entries:
            if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
                try:
                    about = entry.stat()
                except OSError:  # a link to nothing: a frame that is lost until somebody mends it
                    about = entry.stat(follow_symlinks=False)
                count, size, latest = count + 1, size + about.st_size, max(latest, about.st_mtime_ns)
    return [count, size, latest]


def _read(file: Path) -> PreparedClip:
    # Opened here: numpy leaves a file open that proves to be no archive.
    with file.open("rb") as raw, np.load(raw, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in _MEMBERS if name in stored.files}
        size = int(stored["size"])
    for name, (dtype, axes) in _MEMBERS.items():
        if name not in arrays and name == "landmarks":
            continue
        if arrays[name].dtype != np.dtype(dtype) or arrays[name].ndim != axes:
            raise ValueError(f"{name} is {arrays[name].shape} of {arrays[name].dtype}")
    t, stops, found, points = len(arrays["times_us"]), arrays["stops"], arrays["found"], arrays.get("landmarks")
    if not 0 < t <= _MAX_FRAMES or not 0 < size <= _MAX_SIDE or len(stops) != t or len(found) != t:
        raise ValueError("its parts differ in length")
    if points is not None and points.shape != (t, 68, 2):
        raise ValueError("landmarks are not (t, 68, 2)")
    if (np.diff(stops, prepend=0) < 0).any() or stops[-1] != len(arrays["crops"]):
        raise ValueError("the crops do not fit together")
    return PreparedClip(arrays["times_us"], found, points, size, arrays["crops"], stops)


def _png(image: NDArray[np.uint8]) -> bytes:
    # The lightest compression: it is within a few per cent of the best one, and ten times as quick.
    done, packed = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise OSError("a crop could not be packed")
    return bytes(packed)


def _write_whole(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(suffix=".part", dir=path.parent)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
    os.replace(name, path)
