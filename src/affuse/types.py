"""The nouns: what a sample, a batch, a task, an answer and a system are, the same everywhere.

Shape letters: ``b`` batch, ``t`` time, ``m`` modality, ``e`` expert, ``c`` class, ``d`` channel, ``n`` state, ``h w`` image.

Absent means absent: where ``Batch.present[b, m]`` is false, that input has exactly no influence on the output and gets no
gradient. `Batch.collate` fills absent inputs with NaN, so that a leak shows itself instead of passing as a zero; whole numbers
(token ids) have no NaN, and take the smallest value of their dtype, which no embedding has a row for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class AffuseError(Exception):
    """An error of the user's input: one line that names what is wrong, where, and how to mend it."""


def absent_value(dtype: torch.dtype) -> float | int:
    """What stands where an input is absent: NaN, or the smallest value of a dtype of whole numbers.

    Raises:
        AffuseError: a dtype without a value to spare: bool and the unsigned ones, whose smallest value is an ordinary zero.
    """
    if dtype.is_floating_point or dtype.is_complex:
        return torch.nan
    if not dtype.is_signed:
        raise AffuseError(f"an input of dtype {dtype} has no value for 'absent': make it int64 or float32")
    return torch.iinfo(dtype).min


@dataclass(frozen=True)
class Task:
    """What is predicted; it comes from the data, not from a switch in a model.

    Args:
        kind: ``classification`` or ``regression``.
        classes: names of the classes, in index order (classification).
        value_range: smallest and largest value (regression), where they are known.
        units: units of the value (regression).
    """

    kind: Literal["classification", "regression"]
    classes: tuple[str, ...] = ()
    value_range: tuple[float, float] | None = None
    units: str = ""

    def __post_init__(self) -> None:
        if self.kind == "classification" and len(self.classes) < 2:
            raise AffuseError(f"a classification needs at least two classes, got {list(self.classes)}")
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise AffuseError(f"value_range runs from the smallest to the largest value, got {self.value_range}")

    @property
    def outputs(self) -> int:
        """Width of the logits: one a class, or 1 in a regression."""
        return len(self.classes) if self.kind == "classification" else 1


@dataclass(frozen=True)
class Sample:
    """One example, without a batch axis. A modality that is not in `inputs` is absent.

    Args:
        inputs: tensor by modality name; the first axis is time where the modality is a sequence. Numbers that are measured
            are float32; symbols, such as token ids, int64.
        target: class index (int), or value (float); None where unknown.
        times_us: start time of each step by modality, microseconds, where a clock is known.
        meta: id, subject, condition and what else is known; never read by a system.
    """

    inputs: Mapping[str, Tensor]
    target: int | float | None = None
    times_us: Mapping[str, Tensor] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Samples side by side.

    Args:
        inputs: tensor (b, ...) by modality name; rows of absent modalities hold `absent_value`: NaN, in token ids the
            smallest whole number.
        present: (b, m), in the order of the keys of `inputs`.
        lengths: valid steps (b,) by modality, where sequences were padded.
        times_us: start times (b, t) by modality, microseconds.
        target: (b,) class index (int64), -1 where unknown, or value (float32), NaN where unknown; None where no sample has one.
        meta: one mapping a sample.
    """

    inputs: dict[str, Tensor]
    present: Bool[Tensor, "b m"]
    lengths: dict[str, Int[Tensor, " b"]] = field(default_factory=dict)
    times_us: dict[str, Int[Tensor, "b t"]] = field(default_factory=dict)
    target: Tensor | None = None
    meta: tuple[Mapping[str, Any], ...] = ()

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.inputs)

    @property
    def size(self) -> int:
        return self.present.shape[0]

    def has(self, modality: str) -> Bool[Tensor, " b"]:
        """Which rows have this modality; none where the batch does not know it."""
        if modality not in self.inputs:
            return torch.zeros(self.size, dtype=torch.bool, device=self.present.device)
        return self.present[:, self.modalities.index(modality)]

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        move = lambda tensors: {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}  # noqa: E731
        return replace(
            self,
            inputs=move(self.inputs),
            present=self.present.to(device),
            lengths=move(self.lengths),
            times_us=move(self.times_us),
            target=None if self.target is None else self.target.to(device),
        )

    def without(self, *modalities: str) -> Batch:
        """The batch as if these sensors were lost: absent, and `absent_value` in their place."""
        present = self.present.clone()
        inputs = dict(self.inputs)
        for name in modalities:
            if name not in inputs:
                raise AffuseError(f"no modality {name!r} in the batch, which has {list(inputs)}")
            present[:, self.modalities.index(name)] = False
            inputs[name] = torch.full_like(inputs[name], absent_value(inputs[name].dtype))
        return replace(self, present=present, inputs=inputs)

    @staticmethod
    def collate(samples: Sequence[Sample], modalities: Sequence[str] | None = None) -> Batch:
        """Stack samples; shorter sequences are padded with zeros at the end, absent modalities filled (`absent_value`).

        Args:
            samples: at least one.
            modalities: names and order; by default those that any of the samples has, in order of appearance.

        Raises:
            AffuseError: samples differ in a modality beyond time, or one of them numbers what another measures (dtype).
        """
        names = (
            tuple(modalities) if modalities is not None else tuple(dict.fromkeys(n for s in samples for n in s.inputs))
        )
        inputs: dict[str, Tensor] = {}
        lengths: dict[str, Tensor] = {}
        times: dict[str, Tensor] = {}
        present = torch.tensor([[name in s.inputs for name in names] for s in samples], dtype=torch.bool)
        present = present.reshape(len(samples), len(names))
        for name in names:
            known = [s.inputs[name] for s in samples if name in s.inputs]
            if not known:
                # Nobody has it: a single NaN a row, which no encoder will look at.
                inputs[name] = torch.full((len(samples), 1), torch.nan)
                continue
            trailing = {tuple(tensor.shape[1:]) for tensor in known}
            if len(trailing) > 1:
                raise AffuseError(f"modality {name!r}: samples of one batch differ beyond time: {sorted(trailing)}")
            dtypes = {tensor.dtype for tensor in known}
            if len(dtypes) > 1 and not all(dtype.is_floating_point for dtype in dtypes):
                raise AffuseError(
                    f"modality {name!r}: samples of one batch differ in dtype: {sorted(map(str, dtypes))}"
                )
            longest = max(len(tensor) for tensor in known)
            nothing = absent_value(known[0].dtype) if len(known) < len(samples) else 0
            stacked = torch.full((len(samples), longest, *known[0].shape[1:]), nothing, dtype=known[0].dtype)
            for row, sample in enumerate(samples):
                if name in sample.inputs:
                    tensor = sample.inputs[name]
                    stacked[row, : len(tensor)] = tensor
                    stacked[row, len(tensor) :] = 0
            inputs[name] = stacked
            if len({len(tensor) for tensor in known}) > 1:
                lengths[name] = torch.tensor([len(s.inputs[name]) if name in s.inputs else 0 for s in samples])
            clocks = [s.times_us.get(name) for s in samples]
            if all(clock is not None and len(clock) == longest for clock in clocks):
                times[name] = torch.stack([clock for clock in clocks if clock is not None])
        target: Tensor | None = None
        targets = [s.target for s in samples]
        if any(t is not None for t in targets):
            whole = all(isinstance(t, int) for t in targets if t is not None)
            unknown, dtype = (-1, torch.int64) if whole else (torch.nan, torch.float32)
            target = torch.tensor([unknown if t is None else t for t in targets], dtype=dtype)
        return Batch(inputs, present, lengths, times, target, tuple(s.meta for s in samples))


@dataclass(frozen=True)
class Output:
    """An answer and the decisions behind it.

    Args:
        logits: (b, c); in a regression c is 1. NaN in the rows that nothing could be said of.
        answered: (b,) false where no modality was present; such a row is no answer, not a guess.
        weights: named decisions: ``modality`` (b, m) in the order of the system's modalities, ``expert`` (b, e),
            ``time`` (b, t); each row sums to 1, or is all zero where not answered.
        unimodal: logits (b, c) by modality, where a system has them.
        aux: named tensors that a loss or a report needs; ``features`` (b, d), what the answer is read from, is drawn in the
            report. A modality's own stand beside it as ``features/NAME`` (b, d); logits of each time step are ``steps`` and
            ``steps/NAME`` (b, t, c).
    """

    logits: Float[Tensor, "b c"]
    answered: Bool[Tensor, " b"]
    weights: dict[str, Tensor] = field(default_factory=dict)
    unimodal: dict[str, Tensor] = field(default_factory=dict)
    aux: dict[str, Tensor] = field(default_factory=dict)

    @property
    def value(self) -> Float[Tensor, " b"]:
        """The predicted value of a regression."""
        if self.logits.shape[1] != 1:
            raise AffuseError("value is for a regression; this output has several classes: read logits")
        return self.logits[:, 0]


class System(nn.Module, ABC):
    """A model that answers from several sensors.

    A subclass sets `Config` (a frozen dataclass whose fields are the recipe's ``system`` section) and `streaming`: ``step``
    if `init_state` and `step` work, ``window`` if it answers over sliding windows. It is constructed as
    ``SystemClass(config, task)``.
    """

    Config: ClassVar[type]
    streaming: ClassVar[Literal["step", "window"]] = "window"
    modalities: tuple[str, ...]
    config: Any
    task: Task

    @abstractmethod
    def forward(self, batch: Batch) -> Output:
        """Answer a batch."""

    @abstractmethod
    def loss(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Named terms and their ``total``, over the rows that were answered and have a target."""

    def pretrained_parts(self) -> Sequence[nn.Module]:
        """The modules that came trained, such as a text encoder: they may learn at a rate of their own."""
        return ()

    def modality_parts(self) -> Mapping[str, Sequence[nn.Module]]:
        """By modality, the modules that read it alone: whose learning a balancing method may slow. Empty: it has none."""
        return {}

    def know_classes(self, counts: Int[Tensor, " c"]) -> None:
        """Told before training how many training samples each class has; only of a classification.

        What a system keeps of it belongs into a buffer, so that a resumed run and an evaluation know it. A system that does
        not override this is not told, and the data then need not be counted.
        """

    def begin_epoch(self, epoch: int) -> None:
        """Told before each training epoch, numbered from 0."""

    def end_epoch(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Told after each epoch how the selection split was answered, as of `affuse.evaluate.as_records`.

        What a system keeps of it belongs into buffers, so that a resumed run knows it.
        """

    def init_state(self, b: int) -> Any:
        """The state before the first step of `b` streams."""
        raise AffuseError(f"{type(self).__name__} streams over windows of a clip, not step by step")

    def step(self, inputs_t: dict[str, Tensor], state: Any) -> tuple[Output, Any]:
        """One time step: inputs (b, ...) by modality, the state, and back the answer so far and the next state."""
        raise AffuseError(f"{type(self).__name__} streams over windows of a clip, not step by step")
