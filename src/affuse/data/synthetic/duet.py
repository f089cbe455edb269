"""The synthetic duet world: an easy modality that tells most classes, and a hard one that tells them all.

A sample is two sequences on one clock, each noise with one short burst. The burst of ``audio`` adds the pattern of the class:
one linear readout finds it, but in a share of the samples it lies half way between the patterns of two classes. The burst of
``visual`` comes `lag` steps later and adds the class's pattern with a polarity that is drawn for each sample, bright or dark:
its mean over samples is nothing, so no linear readout finds it, and a network first has to form features of both polarities.
Where the sound is ambiguous only the sight decides. A network trained on its joint answer alone is soon right by sound, and
what would teach it to see is gone: this imbalance of modalities (Peng et al., "Balanced Multimodal Learning via On-the-fly
Gradient Modulation", CVPR 2022) is what balancing methods are for.

The defaults are such that the imbalance is seen in a small spiking network; benchmarks/taaf_duet.py measures it. A burst of one
step leaves one lag between the spikes of the two: neurons that need two steps of a weaker burst would fire a step later.

Results on it are synthetic, and are called so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from affuse.data.splits import Splits
from affuse.data.synthetic.plans import SPLITS, check_world_seed
from affuse.types import AffuseError, Sample, Task

DOMINANT, WEAK = "audio", "visual"
STEP_US = 100_000


@dataclass(frozen=True)
class Duet:
    """The ``data`` section of a recipe for the synthetic duet world.

    Args:
        classes: how many (c).
        steps: of each sequence (t), a tenth of a second each.
        burst: steps that a burst lasts.
        lag: steps from the burst in audio to that in visual; negative: visual comes first.
        audio_width, visual_width: numbers a step (d).
        audio_strength, visual_strength: length of a burst in each step, in standard deviations of the noise of one number.
        ambiguous: share of samples whose audio lies half way between two classes.
        subject_shift: standard deviation of a subject's own offset of each number.
        train_samples, validation_samples, test_samples: size of each split.
        train_subjects, validation_subjects, test_subjects: no subject stands in two splits.
        world_seed: what patterns, subjects and samples are drawn from; None: the seed of the training.
    """

    classes: int = 8
    steps: int = 12
    burst: int = 1
    lag: int = 3
    audio_width: int = 16
    visual_width: int = 32
    audio_strength: float = 12.0
    visual_strength: float = 8.0
    ambiguous: float = 0.2
    subject_shift: float = 0.3
    train_samples: int = 2400
    validation_samples: int = 400
    test_samples: int = 800
    train_subjects: int = 40
    validation_subjects: int = 10
    test_subjects: int = 20
    world_seed: int | None = None

    def __post_init__(self) -> None:
        check_world_seed("duet", self.world_seed)
        counts = [getattr(self, f"{split}_{what}") for split in SPLITS for what in ("samples", "subjects")]
        if min(counts) < 1:
            raise AffuseError("duet: every split needs at least one sample and one subject")
        if not 2 <= self.classes <= min(self.audio_width, self.visual_width):
            raise AffuseError(
                f"duet: classes must be at least 2 and at most the width of each modality, got {self.classes} "
                f"with widths {self.audio_width} and {self.visual_width}"
            )
        if self.burst < 1 or self.burst + abs(self.lag) > self.steps:
            raise AffuseError(
                f"duet: a burst of {self.burst} steps and another {self.lag} steps later must fit into {self.steps} steps: "
                "raise steps, or lower burst or lag"
            )
        if (
            min(self.audio_strength, self.visual_strength) <= 0
            or self.subject_shift < 0
            or not 0 <= self.ambiguous <= 1
        ):
            raise AffuseError(
                "duet: strengths must be positive, subject_shift not negative and ambiguous a share from 0 to 1; got "
                f"{self.audio_strength}, {self.visual_strength}, {self.subject_shift} and {self.ambiguous}"
            )

    def splits(self, seed: int) -> Splits:
        """Subjects of their own in every split."""
        world = World.drawn(self, self.world_seed if self.world_seed is not None else seed)
        first = np.cumsum([0, *(getattr(self, f"{split}_subjects") for split in SPLITS)])
        sources = {split: Duets(self, world, number, int(first[number])) for number, split in enumerate(SPLITS)}
        facts = {
            "name": "synthetic duet world",
            "split": "by subject: every split has subjects of its own",
            "counts": {split: len(source) for split, source in sources.items()},
            "subjects_shared": [],
            "bad": 0,
            "lag": self.lag,
            "ambiguous": self.ambiguous,
            "world_seed": world.seed,
        }
        task = Task("classification", tuple(f"class_{number}" for number in range(self.classes)))
        return Splits(task, sources["train"], sources["validation"], sources["test"], True, facts)


@dataclass(frozen=True)
class World:
    """What all samples share: the patterns (c, d) of the classes by modality, orthonormal rows."""

    seed: int
    patterns: dict[str, NDArray[np.float64]] = field(repr=False)

    @staticmethod
    def drawn(config: Duet, seed: int) -> World:
        rng = np.random.default_rng((seed, 0))
        patterns = {}
        for name, width in ((DOMINANT, config.audio_width), (WEAK, config.visual_width)):
            basis, _ = np.linalg.qr(rng.standard_normal((width, config.classes)))
            patterns[name] = basis.T
        return World(seed, patterns)


class Duets:
    """Map-style source of samples, each drawn anew, always the same, from the world's seed and its number."""

    def __init__(self, config: Duet, world: World, split: int, first_subject: int) -> None:
        self.config, self.world, self.split, self.first_subject = config, world, split, first_subject
        self.subjects: int = getattr(config, f"{SPLITS[split]}_subjects")
        self.count: int = getattr(config, f"{SPLITS[split]}_samples")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int, /) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        config = self.config
        rng = np.random.default_rng((self.world.seed, 1 + self.split, index))
        subject = self.first_subject + int(rng.integers(self.subjects))
        target = index % config.classes
        other = (target + int(rng.integers(1, config.classes))) % config.classes
        ambiguous = bool(rng.random() < config.ambiguous)
        polarity = int(rng.choice((-1, 1)))
        onset = int(rng.integers(max(0, -config.lag), config.steps - config.burst - max(0, config.lag) + 1))
        heard = self.world.patterns[DOMINANT]
        sound = (heard[target] + heard[other]) / np.sqrt(2) if ambiguous else heard[target]  # d
        sight = polarity * self.world.patterns[WEAK][target]  # d
        person = np.random.default_rng((self.world.seed, 100, subject))
        inputs = {
            DOMINANT: self._sequence(config.audio_strength * sound, onset, person, rng),
            WEAK: self._sequence(config.visual_strength * sight, onset + config.lag, person, rng),
        }
        times_us = torch.arange(config.steps, dtype=torch.int64) * STEP_US
        truth: dict[str, Any] = {"onset": onset, "lag": config.lag, "polarity": polarity, "ambiguous": ambiguous}
        if ambiguous:
            # Elsewhere both tell, and to believe either of them is right.
            truth |= {"informative": WEAK, "confused_with": other}
        meta: dict[str, Any] = {
            "id": f"{SPLITS[self.split]}_{index:05d}",
            "subject": f"subject_{subject:03d}",
            "condition": f"{DOMINANT} {'ambiguous' if ambiguous else 'clear'}",
            "truth": truth,
        }
        return Sample(inputs, target, dict.fromkeys(inputs, times_us), meta)

    def _sequence(
        self, burst: NDArray[np.float64], onset: int, person: np.random.Generator, rng: np.random.Generator
    ) -> Float[Tensor, "t d"]:
        """Noise of standard deviation 1 around the subject's offset, and from `onset` on the burst."""
        sequence = rng.standard_normal((self.config.steps, len(burst)))  # t d
        sequence += self.config.subject_shift * person.standard_normal(len(burst))
        sequence[onset : onset + self.config.burst] += burst
        return torch.from_numpy(sequence.astype(np.float32))
