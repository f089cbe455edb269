"""Drive&Act: what drivers do, seen by six cameras of three kinds (Martin et al., ICCV 2019). 15 participants, 29 recordings.

A folder holds::

    activities_3s/VIEW/LEVEL.chunks_90.split_{0,1,2}.{train,val,test}.csv    chunks of at most three seconds
    VIEW/vp1/run1b_2018-05-29-14-02-47.SUFFIX.mp4                            whole recordings
    VIEW_frames/vp1/run1b_2018-05-29-14-02-47/frame_00058.png or .jpg        or their frames, extracted

VIEW is kinect_color, kinect_ir, kinect_depth, inner_mirror, a_column_co_driver, a_column_driver, ceiling or steering_wheel; of
the csv files see `affuse.data.drive_and_act_chunks`.

**The protocol** of the tables: each chunk is a sample, and a score is the mean of the three splits, whose participants are
disjoint. Their *mean-1* is the mean of the recalls of the classes that occur in the test part: `uar` of a run's metrics. Their
*top-1* is the share of correct answers: `war`. `mean_over_splits` averages three runs; `facts` names the classes that a
test part lacks. (A published table calls one-vs-rest accuracies per class "balanced": such numbers are not comparable.)

**Where a chunk ends is disputed**: loaders read frame_end as the last frame, or as the one behind it. In the training file of
split 0, 4494 of the next chunks of the same activity begin at the frame_end of the one before, so `frame_end` is ``exclusive``
by default.

**Clocks.** Recordings of one drive begin at different moments, so a chunk's own beginning is the one clock of its views: frames
are taken at the same parts of the chunk in all views, and `Sample.times_us` counts from its first frame. The chunks of three
seconds have 44 to 47 frames in kinect_color: it has about 15 frames a second, not 30.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from affuse.data.drive_and_act_chunks import (
    CLASSES,
    FOLDER,
    PARTS,
    SPLITS,
    VIEWS,
    Label,
    Level,
    PairedChunk,
    Pairing,
    csv_name,
    pair_views,
    read_chunks,
    shared_participants,
    span,
)
from affuse.data.drive_and_act_views import CAMERAS, Recording, find_recordings, kind_of, read_frames
from affuse.data.run_protocol import differing, protocol_of
from affuse.data.splits import Splits
from affuse.signals.camera_windows import CameraWindow
from affuse.signals.cameras import CameraSpec, camera_kind
from affuse.types import AffuseError, Sample, Task

NAME = "Drive&Act"
CHUNK_US = 3_000_000  # the longest chunk
SYNTHETIC = "SYNTHETIC"  # a file of this name in the folder: a simulation wrote it


def paper_views() -> dict[str, str]:
    """The Kinect's three pictures."""
    return {"rgb": "kinect_color", "infrared": "kinect_ir", "depth": "kinect_depth"}


@dataclass(frozen=True)
class DriveAndAct:
    """The ``data`` section of a recipe for Drive&Act.

    Args:
        root: folder of the data set.
        annotations: folder that holds ``activities_3s``; `root` by default.
        level: ``midlevel``: 34 fine-grained activities; ``objectlevel``: atomic actions with object and location;
            ``tasklevel``: the tasks of the drive.
        label: what is predicted at the level of objects: ``activity``, ``object``, ``location`` or ``all`` three joined.
        split: 0, 1 or 2.
        classes: ``published``: the 34 names of midlevel, any other is an error; ``found``: those of the csv files of the
            split. Other levels have no published list here, and take those found.
        views: modality -> view. A modality's name is what its view shows (``rgb``, ``infrared``, ``depth``), or begins with
            that and ``_``, such as ``infrared_ceiling``; rgb has 3 channels, infrared 1, depth as ``cameras.depth`` says.
        frame_end: whether frame_end is the first frame behind the chunk or its last one.
        missing: a chunk that a view lacks, in its csv or for want of its recording: ``absent``: that modality is absent;
            ``drop``: the chunk is left out.
        frames: frames a sample (t).
        pick: ``uniform``: the middles of `frames` equal parts of the chunk; ``random``: in training, anywhere in each part,
            the same in all views.
        source: ``videos``, ``frames`` (extracted), or ``auto``: the frames where they are, else the video.
        cameras: how a frame becomes an input. Of its clocks only ``fps`` is read, of extracted frames; the nominal ones are 15
            in the Kinect's views and 30 in the others.
        max_bad_fraction: a larger share of rows (a chunk in a view) whose recording is missing, damaged or too short stops the
            run.
    """

    root: str
    annotations: str | None = None
    level: Level = "midlevel"
    label: Label = "activity"
    split: int = 0
    classes: Literal["published", "found"] = "published"
    views: dict[str, str] = field(default_factory=paper_views)
    frame_end: Literal["exclusive", "inclusive"] = "exclusive"
    missing: Literal["absent", "drop"] = "absent"
    frames: int = 16
    pick: Literal["uniform", "random"] = "random"
    source: Literal["auto", "videos", "frames"] = "auto"
    cameras: CameraSpec = CAMERAS
    max_bad_fraction: float = 0.02

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise AffuseError(f"DriveAndAct: split is 0, 1 or 2, not {self.split}")
        if not self.views or len(set(self.views.values())) < len(self.views):
            raise AffuseError(f"DriveAndAct: views are at least one, each once, not {self.views}")
        unknown = [view for view in self.views.values() if view not in VIEWS]
        if unknown:
            raise AffuseError(f"DriveAndAct: no view {unknown[0]!r}; choose from {', '.join(VIEWS)}")
        for name, view in self.views.items():
            if camera_kind(name) != kind_of(view):
                raise AffuseError(
                    f"DriveAndAct: {view} shows {kind_of(view)}: a modality of it cannot be called {name!r}"
                )
        if self.label != "activity" and self.level != "objectlevel":
            raise AffuseError(f"DriveAndAct: {self.level} has activities only: set label to activity")
        if self.frames < 1:
            raise AffuseError(f"DriveAndAct: frames must be at least 1, not {self.frames}")

    @property
    def camera_window(self) -> CameraWindow:
        """What `predict` reads of a recording of cameras: windows as long as the longest chunk."""
        return CameraWindow(self.cameras, self.frames, round(CHUNK_US / self.frames))

    def splits(self, seed: int) -> Splits:
        """Train, validation and test of the split; the same for every seed.

        Raises:
            AffuseError: annotations are missing or wrong, or too many recordings are missing or damaged.
        """
        root = Path(self.root)
        if not root.is_dir():
            raise AffuseError(f"{root}: no such folder; set data.root to the folder of Drive&Act")
        pairings = self.read_pairings()
        classes = self._classes(pairings)
        wanted = {
            (name, chunk.key.recording): row.suffix
            for pairing in pairings.values()
            for chunk in pairing.chunks
            for name, row in chunk.rows.items()
        }
        recordings = find_recordings(root, self.views, wanted, self.source, self.cameras.fps)
        usable, bad = self._usable(root, pairings, recordings)
        empty = [part for part, chunks in usable.items() if not chunks]
        if empty:
            raise AffuseError(f"{root}: no usable chunk in {empty}; copy the recordings, or set data.missing to absent")
        sources = {
            part: Chunks(chunks, recordings, classes, self, training=part == "train") for part, chunks in usable.items()
        }
        facts = self._facts(pairings, usable, classes) | {"recordings_bad": len(bad), "bad_names": sorted(bad)[:20]}
        task = Task("classification", classes)
        synthetic = (root / SYNTHETIC).exists()
        return Splits(task, sources["train"], sources["validation"], sources["test"], synthetic, facts)

    def read_pairings(self) -> dict[str, Pairing]:
        """The chunks of each part, all views joined; reads the csv files alone.

        Raises:
            AffuseError: a file is missing or wrong.
        """
        folder = Path(self.annotations if self.annotations is not None else self.root) / FOLDER
        return {
            part: pair_views(
                {
                    name: read_chunks(folder / view / csv_name(self.level, self.split, part), self.level, self.label)
                    for name, view in self.views.items()
                }
            )
            for part in PARTS
        }

    def _classes(self, pairings: Mapping[str, Pairing]) -> tuple[str, ...]:
        found = sorted({chunk.label for pairing in pairings.values() for chunk in pairing.chunks})
        if self.level != "midlevel" or self.classes == "found":
            return tuple(found)
        strange = [label for label in found if label not in CLASSES]
        if strange:
            raise AffuseError(
                f"{self.root}: {strange[0][:60]!r} is none of the 34 activities of midlevel; copy the csv files again, or set "
                "data.classes to found"
            )
        return CLASSES

    def _usable(
        self, root: Path, pairings: Mapping[str, Pairing], recordings: Mapping[tuple[str, str], Recording | str]
    ) -> tuple[dict[str, list[PairedChunk]], set[str]]:
        """Chunks with the views whose recordings can be read, and what is wrong with the others."""
        bad: set[str] = set()
        wanted = lost = 0
        usable: dict[str, list[PairedChunk]] = {}
        for part, pairing in pairings.items():
            usable[part] = []
            for chunk in pairing.chunks:
                rows = {}
                for name, row in chunk.rows.items():
                    recording = recordings[name, chunk.key.recording]
                    wrong = recording if isinstance(recording, str) else recording.lacks(*span(row, self.frame_end))
                    wanted += 1
                    if wrong is None:
                        rows[name] = row
                    else:
                        lost += 1
                        bad.add(wrong)
                if rows and (self.missing == "absent" or len(rows) == len(self.views)):
                    usable[part].append(replace(chunk, rows=rows))
        if lost > self.max_bad_fraction * wanted:
            raise AffuseError(
                f"{root}: {lost} of {wanted} chunks and views have no frames that can be read (first: {min(bad)}); copy "
                "them, see 'affuse doctor --data drive_and_act', or raise max_bad_fraction"
            )
        return usable, bad

    def _facts(
        self, pairings: Mapping[str, Pairing], usable: Mapping[str, Sequence[PairedChunk]], classes: Sequence[str]
    ) -> dict[str, Any]:
        labels = {part: {chunk.label for chunk in chunks} for part, chunks in usable.items()}
        people = {part: {chunk.key.participant for chunk in chunks} for part, chunks in usable.items()}
        return {
            "name": NAME,
            "split": f"published split {self.split} of {self.level}, by participant; a sample is a chunk of at most 3 s",
            "split_number": self.split,
            "level": self.level,
            "label": self.label,
            "views": dict(self.views),
            "frame_end": self.frame_end,
            "frames": self.frames,
            "counts": {part: len(chunks) for part, chunks in usable.items()},
            "participants": {part: [f"vp{number}" for number in sorted(group)] for part, group in people.items()},
            "subjects_shared": shared_participants(usable),
            "classes_absent": {part: [name for name in classes if name not in known] for part, known in labels.items()},
            "metrics": "mean-1 is uar, over the classes that occur in the test part; top-1 is war",
            "chunks_lacking": {name: sum(p.lacking[name] for p in pairings.values()) for name in self.views},
            "labels_disputed": {name: sum(len(p.conflicts[name]) for p in pairings.values()) for name in self.views},
            "dropped": sum(len(pairing.chunks) - len(usable[part]) for part, pairing in pairings.items()),
        }


class Chunks:
    """Map-style source of samples: by modality (t, c, size, size), frames that cannot be decoded NaN; see `DriveAndAct`."""

    def __init__(
        self,
        chunks: Sequence[PairedChunk],
        recordings: Mapping[tuple[str, str], Recording | str],
        classes: Sequence[str],
        config: DriveAndAct,
        training: bool,
    ) -> None:
        self._chunks = tuple(chunks)
        self._recordings = recordings
        self._classes = {name: index for index, name in enumerate(classes)}
        self._config = config
        self._training = training

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, index: int, /) -> Sample:
        chunk, config = self._chunks[index], self._config
        drawn = config.pick == "random" and self._training
        within = torch.rand(config.frames) if drawn else torch.full((config.frames,), 0.5)
        parts = ((torch.arange(config.frames) + within) / config.frames).tolist()
        inputs, times_us = {}, {}
        for name, row in chunk.rows.items():
            recording = self._recordings[name, chunk.key.recording]
            assert isinstance(recording, Recording)
            first, stop = recording.clamp(*span(row, config.frame_end))
            numbers = [min(first + int(part * (stop - first)), stop - 1) for part in parts]
            images, times = read_frames(recording, numbers, config.cameras)
            if not images.isnan().all():
                inputs[name], times_us[name] = images, times - recording.time_us(first)
        meta = {
            "id": str(chunk.key),
            "subject": f"vp{chunk.key.participant}",
            "recording": chunk.key.recording,
            "label": chunk.label,
        }
        return Sample(inputs, self._classes[chunk.label], times_us, meta)


def mean_over_splits(runs: Sequence[str | Path]) -> dict[str, Any]:
    """The published score: the mean of the runs of splits 0, 1 and 2.

    Args:
        runs: three folders that ``affuse fit`` wrote, one a split, in any order.

    Returns:
        ``mean_1`` (UAR: the mean recall over the classes that occur in a test part) and ``top_1`` (WAR), each a share from 0
        to 1 with ``value`` and ``by_split``; ``classes_absent`` of each test part, by split; ``selected_on``, the part that
        chose the epoch; and whether the data is ``synthetic``.

    Raises:
        AffuseError: not three runs of the three splits of Drive&Act, or their settings differ in more than the split.
    """
    found: dict[int, dict[str, Any]] = {}
    for run in map(Path, runs):
        path = run / "metrics.json"
        try:
            said = json.loads(path.read_text())
            facts = said["facts"]
            if facts["name"] != NAME or facts["split_number"] not in SPLITS:
                raise AffuseError(f"{path}: not of a split of Drive&Act")
            if said.get("other_data"):
                raise AffuseError(f"{path}: evaluated on other data than the run's own; run affuse evaluate without it")
            number = int(facts["split_number"])
            row = {"uar": float(said["uar"]["value"]), "war": float(said["war"]["value"]), "facts": facts}
            row["absent"] = list(facts["classes_absent"]["test"])
            row["settings"], info = protocol_of(run, ("root", "split"))
            row["selected_on"], row["synthetic"] = str(info["selected_on"]), bool(info["synthetic"])
        except OSError as error:
            raise AffuseError(f"{error.filename}: no such file; give folders that affuse fit wrote") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError):
            raise AffuseError(f"{run}: not a finished run on Drive&Act; run affuse evaluate on it") from None
        if number in found:
            raise AffuseError(f"{path}: split {number} is there twice; give one run a split")
        found[number] = row
    if sorted(found) != list(SPLITS):
        raise AffuseError(f"the score is the mean over splits 0, 1 and 2, but the runs are of {sorted(found)}")
    first = found[0]
    unlike = sorted({name for row in found.values() for name in differing(first["settings"], row["settings"])})
    unlike += ["synthetic"] if len({row["synthetic"] for row in found.values()}) > 1 else []
    if unlike:
        raise AffuseError(f"the runs differ in {', '.join(unlike)[:200]}; train them alike")
    scores = {
        name: {"value": sum(found[n][key] for n in SPLITS) / len(SPLITS), "by_split": [found[n][key] for n in SPLITS]}
        for name, key in (("mean_1", "uar"), ("top_1", "war"))
    }
    absent = {str(n): found[n]["absent"] for n in SPLITS}
    return {
        **scores,
        "classes_absent": absent,
        "selected_on": first["selected_on"],
        "synthetic": first["synthetic"],
    }
