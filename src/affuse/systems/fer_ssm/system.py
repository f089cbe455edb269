"""FER-SSM: expressions of faces in video, by facial attention in each frame and selective state space models over time.

Paper: Yudhistira Arditya Pratama, Theophilus Ezra Nugroho Pandin and Yi-Zeng Hsieh, "Dynamic Facial Expression Recognition in
the Wild using Mamba-Style Selective SSM and Facial Attention Mechanism". There is no released code. Read with this file
facial_attention.py (row 3 of its Table 1), temporal.py (rows 6 to 9), affuse/parts/mamba.py (the block),
affuse/parts/action_units.py (the analyser) and affuse/parts/class_balance.py (the loss).

====  ================================  =======================================  =================
row   in Table 1                        here                                     shape
====  ================================  =======================================  =================
1     input video                       ``inputs["face"]``                       (b, t, 3, h, w)
2     EfficientNetV2-S backbone         `FERSSM.encoder`                         (n, c, y, x)
3     CBAM + landmark attention +       `FERSSM.facial`; ``aux["regions"]``,     (n, c, y, x)
      facial enhancer                   ``aux["attention/face"]``
4, 5  pooling, reshape to sequence      `FERSSM._frames`                         (b, t, c)
6     temporal projection               `TemporalModel.project`                  (b, t, d)
7     Mamba (SSM) blocks                `TemporalModel.blocks`                   (b, t, d)
8     multi-head temporal attention     `TemporalModel.attention`                (b, t, d)
9     temporal pooling                  `time_shares`; ``weights["time"]``       (b, d); (b, t)
10    classifier MLP                    `FERSSM.classifier`                      (b, classes)
====  ================================  =======================================  =================

``n`` are the frames of all clips in which there is a face. The others are NaN, and have exactly no influence: neither backbone
nor facial attention sees them (so batch statistics do not either), the scan passes its state on, no attention reads them, and
they weigh 0 in the pooling. Readings and deviations are argued in the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from affuse.parts.action_units import action_units, au_scores
from affuse.parts.class_balance import balanced_loss
from affuse.parts.encoders import ImageEncoder, grid_pool
from affuse.parts.sequences import present_rows, spread, valid_steps
from affuse.parts.supervision import known_rows, nothing_to_learn
from affuse.systems.fer_ssm.config import FERSSMConfig
from affuse.systems.fer_ssm.facial_attention import POINTS, FacialAttention, landmark_mask
from affuse.systems.fer_ssm.temporal import TemporalModel, TemporalState
from affuse.types import AffuseError, Batch, Output, System, Task


class Clips(NamedTuple):
    """What was given of the rows that have a face: frames (q, t, 3, h, w), which are valid (q, t), landmarks (q, t, 68, 2)."""

    frames: Tensor
    valid: Tensor
    landmarks: Tensor | None


class Seen(NamedTuple):
    """What each frame gave, zero where it is not valid: vector (q, t, f), regions (q, t, k, y, x), attention (q, t, y, x)."""

    vectors: Tensor
    regions: Tensor
    attention: Tensor


class FERSSM(System):
    """FER-SSM (see the head of this file).

    Inputs: ``face`` (b, t, 3, h, w), aligned faces, about zero mean and unit scale; a frame without a face is NaN.
    ``landmarks`` (b, t, 68, 2), x and y of the points of iBUG 300-W in the crop, -1 to 1 from edge to edge; a frame without
    them is NaN. Without a face nothing is answered.

    `Output.weights` holds ``time`` (b, t), the share of each frame in the pooling. `Output.aux`: ``features`` (b, d);
    ``regions`` (b, t, k, y, x) and ``attention/face`` (b, t, y, x) of the facial attention, zero in frames that are not valid;
    with landmarks ``action_units`` (b, t, u), NaN where unknown; of a causal system ``steps`` (b, t, classes), the answer after
    each frame, NaN before the first face.

    It streams by `step` where it is causal.

    Args:
        config: settings.
        task: what is predicted.

    Raises:
        AffuseError: a setting is impossible, or the backbone cannot be had.
    """

    Config: ClassVar[type] = FERSSMConfig
    streaming: ClassVar[Literal["step", "window"]] = "step"
    config: FERSSMConfig
    class_counts: Tensor

    def __init__(self, config: FERSSMConfig, task: Task) -> None:
        super().__init__()
        self.config, self.task, self.modalities = config, task, config.modalities
        self.encoder = ImageEncoder(config.encoder, 3, config.pretrained, config.encoder_weights)
        self.facial = FacialAttention(
            self.encoder.width,
            config.regions,
            channel=config.channel_attention,
            reduction=config.reduction,
            activation=config.region_activation,
            landmark_mask=config.landmark_mask,
            scales=config.spatial_scales,
            landmark_attention=config.landmark_attention,
            enhancer=config.enhancer,
        )
        self.maps = nn.Identity()  # the refined map of each frame passes here, for Grad-CAM
        self.temporal = TemporalModel(self.encoder.width * config.frame_grid**2, config)
        self.classifier = _classifier(config.d_model, config.classifier, task.outputs, config.dropout)
        # A buffer, so that a resumed run and an evaluation know them.
        self.register_buffer("class_counts", torch.ones(task.outputs, dtype=torch.int64))

    def forward(self, batch: Batch) -> Output:
        rows = present_rows(batch, "face")
        if not rows.any():
            return self._no_answer(batch)
        clips = self._clips(batch, rows)
        seen = self._frames(clips)
        units = None if clips.landmarks is None else action_units(clips.landmarks)  # q t u
        pooled = self.temporal(seen.vectors, clips.valid, self._scores(clips.valid, units))
        own = clips.valid.any(1)  # q
        answered = spread(own.float(), rows, 0.0) > 0  # b
        logits = self.classifier(pooled.vector).masked_fill(~own[:, None], torch.nan)
        aux = {
            "features": spread(pooled.vector, rows, 0.0),
            "regions": spread(seen.regions.detach(), rows, 0.0),
            "attention/face": spread(seen.attention.detach(), rows, 0.0),
        }
        if pooled.steps is not None:
            unsaid = clips.valid.cumsum(1) == 0  # q t: before the first face, and behind the end of the clip
            if "face" in batch.lengths:
                unsaid = unsaid | ~valid_steps(batch.lengths["face"][rows], unsaid.shape[1])
            steps = self.classifier(pooled.steps).masked_fill(unsaid[:, :, None], torch.nan)
            aux["steps"] = spread(steps, rows, torch.nan)
        if units is not None:
            aux["action_units"] = spread(units.detach(), rows, torch.nan)
        return Output(spread(logits, rows, torch.nan), answered, {"time": spread(pooled.share, rows, 0.0)}, {}, aux)

    def loss(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """``answer``, the error of the answers by `loss` of the settings, and ``total``, over the rows with answer and target.

        In a regression the squared error. A causal system may add ``steps``, the mean error of its answers after each frame.

        Raises:
            AffuseError: the batch has no targets.
        """
        rows = known_rows(output, batch, self.task)
        if batch.target is None or not rows.any():
            return nothing_to_learn(self)
        target = batch.target[rows]
        terms = {"answer": self._error(output.logits[rows], target)}
        total = terms["answer"]
        if self.config.steps_weight:
            steps = output.aux["steps"][rows]  # r t c
            said = torch.isfinite(steps).all(2)  # r t
            spoken = target[:, None].expand_as(said)[said]
            terms["steps"] = self._error(steps[said], spoken)
            total = total + self.config.steps_weight * terms["steps"]
        return {**terms, "total": total}

    def know_classes(self, counts: Int[Tensor, " c"]) -> None:
        """How many training samples each class has, for the weights of the loss."""
        self.class_counts.copy_(counts)

    def pretrained_parts(self) -> Sequence[nn.Module]:
        """The backbone, where it started from published weights."""
        return [self.encoder] if self.config.pretrained or self.config.encoder_weights else []

    def spatial_layer(self, modality: str) -> nn.Module:
        """The module that gives the refined map of each frame, ((rows t), c, y, x): the last one with a place.

        Raises:
            AffuseError: another modality than ``face``.
        """
        if modality != "face":
            raise AffuseError(f"FER-SSM has maps of 'face' alone, not of {modality!r}")
        return self.maps

    def init_state(self, b: int) -> TemporalState:
        """The state before the first frame of `b` streams.

        Raises:
            AffuseError: the system is not causal.
        """
        if not self.config.causal:
            raise AffuseError(
                "this FER-SSM streams over windows of a clip, not step by step: its attention looks ahead (causal)"
            )
        return self.temporal.init_state(b)

    def step(self, inputs_t: dict[str, Tensor], state: TemporalState) -> tuple[Output, TemporalState]:
        """One frame ``face`` (b, 3, h, w), NaN where there is none, its ``landmarks`` (b, 68, 2), and back the answer so far.

        ``weights["time"]`` (b, 1) is the share of this frame in the answer so far; what `forward` gives by frame has t = 1.
        """
        b = len(state.pool.weight)
        if "face" in inputs_t:
            given = {name: inputs_t[name][:, None] for name in self.modalities if name in inputs_t}
            batch = Batch(given, torch.ones(b, len(given), dtype=torch.bool, device=self.class_counts.device))
            clips = self._clips(batch, batch.present[:, 0])
        else:
            # A frame that was not given is a frame without a face: a single pixel that says so.
            nothing = next(self.parameters()).new_full((b, 1, 3, 1, 1), torch.nan)
            clips = Clips(nothing, torch.zeros(b, 1, dtype=torch.bool, device=nothing.device), None)
        seen = self._frames(clips)
        units = None if clips.landmarks is None else action_units(clips.landmarks)  # b 1 u
        valid, score = clips.valid[:, 0], self._scores(clips.valid, units)[:, 0]
        vector, following = self.temporal.step(seen.vectors[:, 0], valid, score, state)
        weight = following.pool.weight
        answered = weight > 0
        logits = self.classifier(vector).masked_fill(~answered[:, None], torch.nan)
        aux = {"features": vector, "steps": logits[:, None], "regions": seen.regions, "attention/face": seen.attention}
        if units is not None:
            aux["action_units"] = units
        share = score / weight.clamp_min(torch.finfo(weight.dtype).tiny)
        return Output(logits, answered, {"time": share[:, None]}, {}, aux), following

    def _clips(self, batch: Batch, rows: Bool[Tensor, " b"]) -> Clips:
        """The frames of the rows that have a face.

        Raises:
            AffuseError: they are no colour frames, or the landmarks are not of these frames.
        """
        frames = batch.inputs["face"]
        if frames.ndim != 5 or frames.shape[2] != 3 or not frames.is_floating_point():
            raise AffuseError(
                f"modality 'face': expected float frames (b, t, 3, h, w), got {frames.dtype} {tuple(frames.shape)}; mend the "
                f"data"
            )
        frames = frames if bool(rows.all()) else frames[rows]
        # Some value that is not finite makes the sum so; finite frames of unit scale cannot overflow it.
        valid = torch.isfinite(frames.flatten(2).sum(2))  # q t
        if "face" in batch.lengths:
            valid = valid & valid_steps(batch.lengths["face"][rows], frames.shape[1])
        landmarks = self._landmarks(batch, rows, valid) if "landmarks" in self.modalities else None
        return Clips(frames, valid, landmarks)

    def _landmarks(
        self, batch: Batch, rows: Bool[Tensor, " b"], valid: Bool[Tensor, "q t"]
    ) -> Float[Tensor, "q t 68 2"] | None:
        """The landmarks of these rows' valid frames, NaN where unknown; None where none of the rows has any.

        Raises:
            AffuseError: they are not of these frames.
        """
        has = batch.has("landmarks")[rows]  # q
        if not has.any():
            return None
        landmarks = batch.inputs["landmarks"][rows]
        if "landmarks" in batch.lengths:  # who has no face may have had landmarks of more frames
            landmarks = landmarks[:, : int(batch.lengths["landmarks"][rows].max())]
        if landmarks.ndim != 4 or landmarks.shape[2:] != (POINTS, 2) or landmarks.shape[1] > valid.shape[1]:
            raise AffuseError(
                f"modality 'landmarks': expected (b, {valid.shape[1]}, {POINTS}, 2), the points of each frame of 'face', got "
                f"{tuple(landmarks.shape)}; mend the data"
            )
        known = has[:, None] & torch.isfinite(landmarks).flatten(2).all(2)  # q s
        if "landmarks" in batch.lengths:
            known = known & valid_steps(batch.lengths["landmarks"][rows], landmarks.shape[1])
        # A batch is as long as its longest sequence, and the longest faces may have no landmarks.
        lacking = valid.shape[1] - landmarks.shape[1]
        known = functional.pad(known, (0, lacking)) & valid  # q t
        landmarks = functional.pad(landmarks, (0, 0, 0, 0, 0, lacking))
        return landmarks.masked_fill(~known[:, :, None, None], torch.nan)

    def _frames(self, clips: Clips) -> Seen:
        """Rows 2 to 5 of Table 1, over the frames in which there is a face."""
        valid = clips.valid
        q, t = valid.shape
        if not valid.any():
            maps = self.maps(self.temporal.project.weight.new_zeros(q * t, self.encoder.width, 1, 1))
            return Seen(
                maps.new_zeros(q, t, self.temporal.project.in_features),
                maps.new_zeros(q, t, self.config.regions, 1, 1),
                maps.new_zeros(q, t, 1, 1),
            )
        frames = clips.frames.flatten(0, 1) if bool(valid.all()) else clips.frames[valid]  # n 3 h w
        # A single clip stays one clip: its frames are no sample of the population for batch normalisation.
        alone = int(valid.any(1).sum()) == 1
        found = self.encoder(frames.unsqueeze(0 if alone else 1)).flatten(0, 1)  # n c y x, row 2
        mask = None
        if clips.landmarks is not None:
            mask = landmark_mask(clips.landmarks[valid].to(found.dtype), *found.shape[2:])  # n 8 y x
        refined = self.facial(found, mask)  # row 3
        everywhere = lambda values: _placed(values, valid)  # noqa: E731
        maps = self.maps(everywhere(refined.maps).flatten(0, 1))  # (q t) c y x
        vectors = grid_pool(maps.unflatten(0, (q, t)), self.config.frame_grid)  # q t f, rows 4 and 5
        return Seen(vectors, everywhere(refined.regions), everywhere(refined.spatial))

    def _scores(self, valid: Bool[Tensor, "q t"], units: Float[Tensor, "q t u"] | None) -> Float[Tensor, "q t"]:
        """How much each frame weighs in the pooling, 0 where it is not valid."""
        score = valid.to(self.temporal.project.weight.dtype)
        if self.config.au_reweight == "none" or units is None:
            return score
        return score * au_scores(units).to(score.dtype)

    def _error(self, logits: Float[Tensor, "r c"], target: Tensor) -> Tensor:
        if self.task.kind == "regression":
            return functional.mse_loss(logits[:, 0], target.to(logits.dtype))
        return balanced_loss(logits, target, self.class_counts, self.config.loss)

    def _no_answer(self, batch: Batch) -> Output:
        some = next(self.parameters())
        found = batch.inputs.get("face")
        steps = 1 if found is None else found.shape[1]
        nan = some.new_full((batch.size, self.task.outputs), torch.nan).detach()
        answered = torch.zeros(batch.size, dtype=torch.bool, device=batch.present.device)
        return Output(nan, answered, {"time": some.new_zeros(batch.size, steps)})


def _placed(values: Float[Tensor, "n ..."], valid: Bool[Tensor, "q t"]) -> Float[Tensor, "q t ..."]:
    """Values of the valid frames in their places, zeros in the others."""
    if len(values) == valid.numel():
        return values.unflatten(0, valid.shape)
    placed = values.new_zeros(*valid.shape, *values.shape[1:])
    placed[valid] = values
    return placed


def _classifier(width: int, hidden: Sequence[int], outputs: int, dropout: float) -> nn.Module:
    """Row 10: an MLP with ReLU and dropout behind each hidden layer."""
    layers: list[nn.Module] = []
    for before, after in zip((width, *hidden), hidden, strict=False):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(hidden[-1] if hidden else width, outputs))
