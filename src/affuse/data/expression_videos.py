"""The videos of RAVDESS and CREMA-D as data for facial expressions: acted, in front of a plain wall, one expression a clip.

A folder holds RAVDESS's videos at any depth, named as `affuse.data.ravdess.RavdessName` says (``01-...`` with sound, ``02-...``
the same picture without), or CREMA-D's in ``VideoFlash``, ``VideoMP4`` or ``Video``, named as `affuse.data.crema_d` says.

Clips of one actor are alike, so actors are what is split, in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from affuse.data import crema_d, ravdess
from affuse.data.clip_index import ClipFile
from affuse.data.face_augmentation import FaceAugmentation
from affuse.data.face_clips import by_subject, face_splits
from affuse.data.sound_and_frames import MOVIE_SUFFIXES
from affuse.data.splits import Splits
from affuse.signals.face import FacePipeline
from affuse.signals.face_input import FaceInput
from affuse.types import AffuseError

# Six as in CREMA-D, and what only RAVDESS has; its other emotions are in the same order in both.
SIX = ravdess.CLASSES
RAVDESS_ONLY = {"02": "calm", "08": "surprise"}


@dataclass(frozen=True)
class ExpressionVideos:
    """The ``data`` section of a recipe for the videos of RAVDESS or CREMA-D.

    Args:
        root: folder of the data set.
        videos: whose videos they are.
        emotions: ``six``: neutral, happy, sad, fear, disgust and anger, which both have; ``all``: RAVDESS's calm and surprise
            too.
        song: RAVDESS's sung clips too.
        fold: which fold is the test part, from 0: every `folds`-th actor, in the order of their numbers.
        folds: number of folds.
        validation_share: share of the other actors that is validation, drawn by the seed.
        input: how a clip becomes an input; the face is found in the picture, which shows head and shoulders.
        augment: what training does to the faces; None: nothing.
        cache: folder that ``affuse data prepare`` wrote; None: faces are searched whenever a clip is read.
        max_bad_fraction: more clips that are empty than this share stop the run.
    """

    root: str
    videos: Literal["ravdess", "crema_d"]
    emotions: Literal["six", "all"] = "six"
    song: bool = False
    fold: int = 0
    folds: int = 5
    validation_share: float = 0.15
    input: FaceInput = FaceInput(pipeline=FacePipeline())
    augment: FaceAugmentation | None = FaceAugmentation()
    cache: str | None = None
    max_bad_fraction: float = 0.02

    def __post_init__(self) -> None:
        if self.folds < 2 or not 0 <= self.fold < self.folds:
            raise AffuseError(f"folds is at least 2, and fold from 0 and below it, not {self.folds} and {self.fold}")
        if not 0 < self.validation_share < 1:
            raise AffuseError(f"validation_share is between 0 and 1, not {self.validation_share}")
        if self.videos == "crema_d" and (self.emotions == "all" or self.song):
            raise AffuseError("CREMA-D has the six emotions and no song: set emotions to six and song to false")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in index order."""
        return SIX if self.emotions == "six" else (*SIX, *RAVDESS_ONLY.values())

    def splits(self, seed: int) -> Splits:
        """Train, validation and test. The test actors follow from `fold` alone, the validation actors from the seed.

        Raises:
            AffuseError: no such folder, no video, a name outside the grammar, or too few actors.
        """
        root = Path(self.root)
        if not root.is_dir():
            raise AffuseError(f"{root}: no such folder; set data.root to the folder of the videos")
        clips = self._ravdess(root) if self.videos == "ravdess" else self._crema_d(root)
        actors = sorted({str(clip.meta["subject"]) for clip in clips})
        test = set(actors[self.fold :: self.folds])
        rest = [clip for clip in clips if clip.meta["subject"] not in test]
        if len(actors) < self.folds or len(actors) - len(test) < 2:
            raise AffuseError(f"{root}: {len(actors)} actors are too few for {self.folds} folds and a validation part")
        parts = by_subject(rest, {"validation": self.validation_share}, "train", seed)
        parts["test"] = [clip for clip in clips if clip.meta["subject"] in test]
        facts = {
            "name": "RAVDESS videos" if self.videos == "ravdess" else "CREMA-D videos",
            "split": f"actors disjoint: fold {self.fold} of {self.folds} is test, validation actors drawn by seed {seed}",
            "fold": self.fold,
            "folds": self.folds,
            "frames": self.input.frames,
            "actors": {
                part: sorted({str(clip.meta["subject"]) for clip in members}) for part, members in parts.items()
            },
        }
        return face_splits(
            parts, self.classes, root, self.input, self.augment, self.cache, self.max_bad_fraction, facts
        )

    def _ravdess(self, root: Path) -> list[ClipFile]:
        found: dict[str, tuple[str, ClipFile]] = {}
        for path in sorted(root.rglob("*")):
            if path.suffix.lower() not in MOVIE_SUFFIXES:
                continue
            try:
                name = ravdess.RavdessName.parse(path.stem)
            except AffuseError as error:
                raise AffuseError(f"{path}: {error}") from None
            if name.channel == "02" and not self.song:
                continue
            if name.emotion in RAVDESS_ONLY:
                if self.emotions == "six":
                    continue
                target = self.classes.index(RAVDESS_ONLY[name.emotion])
            else:
                target = ravdess.EMOTIONS[name.emotion]
            meta = {"subject": f"{name.actor:02d}", "label": self.classes[target]}
            meta["intensity"] = "strong" if name.intensity == "02" else "normal"
            # 01 and 02 are the same picture: one of them is enough.
            if name.clip not in found or name.modality < found[name.clip][0]:
                found[name.clip] = name.modality, ClipFile(name.clip, target, path, meta=meta)
        if not found:
            raise AffuseError(
                f"{root}: no video of RAVDESS (such as 01-01-05-02-01-01-12.mp4); set data.root to its folder"
            )
        return [clip for _, clip in found.values()]

    def _crema_d(self, root: Path) -> list[ClipFile]:
        _, videos = crema_d.CremaD(str(root), modalities=("video",), prefer_images=False).find_files(root)
        clips = []
        for name, path in videos.items():
            if path.is_dir():
                continue  # frames at one a second: no expression moves in them
            fields = crema_d.CremaDName.parse(name)
            label = crema_d.EMOTIONS[fields.emotion]
            meta = {"subject": str(fields.actor), "label": label, "level": fields.level}
            clips.append(ClipFile(name, self.classes.index(label), path, meta=meta))
        if not clips:
            raise AffuseError(
                f"{root}: no video of CREMA-D in VideoFlash, VideoMP4 or Video; copy one of these folders"
            )
        return clips
