"""What the baselines of dynamic expressions share: clips of faces, which frames count, the answer, and the loss.

Each of them reads the modality ``face``, frames (b, t, 3, h, w) of about zero mean and unit scale. A frame with a value that is
not finite shows no face: it is lost. A network that reads frame by frame leaves lost frames out, and one that convolves over
time sees the nearest frame with a face in their place (`video_resnet.py`); either way nothing of them reaches an answer. A clip
without a single face is not answered.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor, nn
from torch.nn import functional

from affuse.parts.class_balance import ClassBalance, balanced_loss
from affuse.parts.sequences import spread, valid_steps
from affuse.parts.supervision import known_rows, nothing_to_learn
from affuse.types import AffuseError, Batch, Output, System, Task


class FaceClips(NamedTuple):
    """The clips of the rows that have the modality: finite frames (q, t, 3, h, w), zero where lost; which are valid and which
    are the clip's own, valid or lost, and not its padding (both (q, t)); which rows they are (b,)."""

    frames: Tensor
    valid: Tensor
    own: Tensor
    rows: Tensor


class Described(NamedTuple):
    """What a network found in the s clips with a face: features (s, d), and how much each frame counts (s, t), if it says."""

    features: Tensor
    time: Tensor | None = None


def face_clips(batch: Batch) -> FaceClips | None:
    """The clips of a batch; None where no row has a frame with a face.

    Raises:
        AffuseError: the faces are no float frames (b, t, 3, h, w).
    """
    rows = batch.has("face")
    if not rows.any():
        return None
    frames = batch.inputs["face"]
    if frames.ndim != 5 or frames.shape[2] != 3 or not frames.is_floating_point():
        raise AffuseError(
            f"modality 'face': expected float frames (b, t, 3, h, w), got {frames.dtype} {tuple(frames.shape)}; "
            f"mend the data"
        )
    frames = frames[rows]
    own = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
    if "face" in batch.lengths:
        own = valid_steps(batch.lengths["face"][rows], frames.shape[1])
    # Some value that is not finite makes the sum so; finite frames of unit scale cannot overflow it.
    valid = own & torch.isfinite(frames.flatten(2).sum(2))  # q t
    if not valid.any():
        return None
    return FaceClips(frames.masked_fill(~valid[:, :, None, None, None], 0.0), valid, own, rows)


def maps_of_frames(
    encode: Callable[[Tensor], Tensor], frames: Float[Tensor, "q t c h w"], valid: Bool[Tensor, "q t"]
) -> Float[Tensor, "n d y x"]:
    """The map of each frame, n = q t; zeros for those that are not valid, which `encode` (k, c, h, w) does not see."""
    found = encode(frames[valid])
    maps = found.new_zeros(valid.numel(), *found.shape[1:])
    maps[valid.flatten()] = found
    return maps


class ExpressionBaseline(System):
    """A network that describes clips of faces, a linear classifier on its features, and the loss.

    `Output.aux`: ``features`` (b, d). `Output.weights`: ``time`` (b, t), where frames are weighed.

    A subclass passes each frame's map, ((q t), d, y, x), through ``self.maps``, which Grad-CAM looks at.

    Args:
        task: what is predicted.
        width: features (d).
        dropout: before the classifier.
        balance: how the loss of a classification treats rare classes.
    """

    modalities: tuple[str, ...] = ("face",)
    class_counts: Tensor

    def __init__(self, task: Task, width: int, dropout: float, balance: ClassBalance) -> None:
        super().__init__()
        self.task, self.balance = task, balance
        self.maps = nn.Identity()
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, task.outputs))
        # A buffer, so that a resumed run and an evaluation know them.
        self.register_buffer("class_counts", torch.ones(task.outputs, dtype=torch.int64))

    @abstractmethod
    def describe(self, clips: FaceClips, seen: Bool[Tensor, " q"]) -> Described:
        """Features of the clips that are `seen`: those with a valid frame."""

    def forward(self, batch: Batch) -> Output:
        clips = face_clips(batch)
        if clips is None:
            nan = next(self.parameters()).new_full((batch.size, self.task.outputs), torch.nan).detach()
            return Output(nan, torch.zeros_like(batch.present[:, 0]))
        seen = clips.valid.any(1)  # q
        found = self.describe(clips, seen)
        answered = clips.rows.clone()  # b
        answered[clips.rows] = seen
        weights = {} if found.time is None else {"time": spread(found.time, answered, 0.0)}
        logits = self.classifier(found.features)  # s c
        aux = {"features": spread(found.features, answered, 0.0)}
        return Output(spread(logits, answered, torch.nan), answered, weights, {}, aux)

    def loss(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """``classification``, cross-entropy or what `ClassBalance` makes of it, or ``regression``, the squared error.

        Raises:
            AffuseError: the batch has no targets.
        """
        rows = known_rows(output, batch, self.task)
        if batch.target is None or not rows.any():
            return nothing_to_learn(self)
        logits, target = output.logits[rows], batch.target[rows]
        if self.task.kind == "classification":
            error = balanced_loss(logits, target, self.class_counts, self.balance)
        else:
            error = functional.mse_loss(logits[:, 0], target.to(logits.dtype))
        return {self.task.kind: error, "total": error}

    def know_classes(self, counts: Num[Tensor, " c"]) -> None:
        """Told before training how many samples of each class the training split has."""
        self.class_counts.copy_(counts)

    def spatial_layer(self, modality: str) -> nn.Module:
        """The module that gives the last map of each frame, (rows t, d, y, x).

        Raises:
            AffuseError: there is no such modality.
        """
        if modality != "face":
            raise AffuseError(f"{type(self).__name__} has no modality {modality!r}; it reads 'face' alone")
        return self.maps
