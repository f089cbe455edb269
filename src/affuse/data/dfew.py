"""DFEW: expressions of faces in films (Jiang et al., ACM MM 2020). 11,697 clips of one label in five folds, seven expressions.

For the folders and lists that it comes in, see `affuse.data.dfew_files`.

**The protocol** of the tables: each clip is in the test part of one of five folds; WAR is the share of correct answers, UAR the
mean recall of the seven classes, and a score is the mean over the folds. `affuse.data.expression_folds` gives the folds, their
mean, and the scores of all test clips as one. Disgust has 29 test clips in fold 1: one clip is 3.4 points of its recall.

**There is no validation part**: published results chose their epoch on the test part of the fold. Here a share of the training
part, drawn by class, is validation; the published way is ``--training.select_on test``, which marks the run.

DFEW names no subjects: whether somebody stands in both parts of a fold is not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from affuse.data.clip_index import ClipFile
from affuse.data.dfew_files import CLASSES, FOLDERS, FOLDS, PARTS, Form, find_clips, find_list, read_dfew_list
from affuse.data.expression_lists import refuse_repeated
from affuse.data.face_augmentation import FaceAugmentation
from affuse.data.face_clips import face_splits, stratified
from affuse.data.splits import Splits
from affuse.signals.face_input import FaceInput
from affuse.types import AffuseError

NAME = "DFEW"


@dataclass(frozen=True)
class DFEW:
    """The ``data`` section of a recipe for DFEW.

    Args:
        root: folder of the data set (such as DFEW-part2), or of its clips.
        lists: folder of the lists of the folds; `root` by default.
        form: which clips are read: ``original`` (cut out of films), ``frames`` (faces, 224 x 224), ``frames_16`` (16 of them),
            ``avi`` (the faces as videos). ``auto``: with a pipeline the original ones if they are there; else the faces as
            frames, avi or 16 frames, or `root` itself as a folder of them. Never the original ones without a pipeline.
        fold: 1 to 5.
        input: how a clip becomes an input.
        validation_share: share of each class of the training part that is validation, drawn by the seed.
        augment: what training does to the faces; None: nothing.
        fps: frames a second that folders of frames are taken to have (films: 24 to 30); the folders of 16 have no clock.
        cache: folder that ``affuse data prepare`` wrote; None: faces are searched whenever a clip is read.
        max_bad_fraction: more listed clips that are missing or empty than this share stop the run.
    """

    root: str
    lists: str | None = None
    form: Literal["auto", "original", "frames", "frames_16", "avi"] = "auto"
    fold: int = 1
    input: FaceInput = FaceInput()
    validation_share: float = 0.1
    augment: FaceAugmentation | None = FaceAugmentation()
    fps: float = 25.0
    cache: str | None = None
    max_bad_fraction: float = 0.01

    def __post_init__(self) -> None:
        if self.fold not in FOLDS:
            raise AffuseError(f"DFEW: fold is 1 to 5, not {self.fold}")
        if not 0 < self.validation_share < 1:
            raise AffuseError(f"DFEW: validation_share is between 0 and 1, not {self.validation_share}")
        if not 0 < self.fps < 1000:
            raise AffuseError(f"DFEW: fps is above 0 and below 1000, not {self.fps}")
        if self.input.landmarks and self.input.pipeline is None:
            raise AffuseError(
                "DFEW: it comes without landmarks: set input.pipeline, whose landmarks to true finds them"
            )

    def splits(self, seed: int) -> Splits:
        """Train, validation and test of the fold; the seed draws validation alone.

        Raises:
            AffuseError: lists or folders are missing, a list is wrong or has a clip twice, or too many clips are missing.
        """
        root = Path(self.root)
        if not root.is_dir():
            raise AffuseError(f"{root}: no such folder; set data.root to the folder of DFEW")
        folder = Path(self.lists) if self.lists is not None else root
        lists = {part: read_dfew_list(find_list(folder, self.fold, part)) for part in PARTS}
        for listed in lists.values():
            if listed.repeated:
                raise AffuseError(f"{listed.path}: clip {listed.repeated[0]} is listed twice; keep one line of each")
        refuse_repeated((listed.path, list(listed.targets)) for listed in lists.values())
        faces: tuple[Form, ...] = ("frames", "avi", "frames_16")
        index, form = find_clips(root, self.form, faces if self.input.pipeline is None else ("original", *faces))
        clips = {
            part: [
                ClipFile(
                    number.zfill(5),
                    target,
                    index.find(number),
                    None if form == "frames_16" else self.fps,
                    {"label": CLASSES[target], "subject": None},
                )
                for number, target in listed.targets.items()
            ]
            for part, listed in lists.items()
        }
        train, validation = stratified(clips["train"], self.validation_share, seed)
        facts = {
            "name": NAME,
            "split": f"fold {self.fold} of 5; {self.validation_share:g} of each class of its training part for validation, "
            f"seed {seed}",
            "fold": self.fold,
            "folds": len(FOLDS),
            "form": form or "a folder of clips",
            "clips": FOLDERS[form] if form else root.name,
            "lists": {part: listed.path.name for part, listed in lists.items()},
            "frames": self.input.frames,
            "clock": "none"
            if form == "frames_16"
            else f"of the file; {self.fps:g} frames a second are assumed in folders",
            "subjects_shared": [],
            "note": "DFEW names no subjects: whether somebody stands in both parts of a fold is unknown; it has no validation "
            "part, and published results selected on test",
        }
        parts = {"train": train, "validation": validation, "test": clips["test"]}
        return face_splits(parts, CLASSES, root, self.input, self.augment, self.cache, self.max_bad_fraction, facts)
