"""The synthetic talk world: people say something, and exactly one of text, audio and video tells how they mean it.

A speaker's utterance is three sequences of features on clocks of their own. Each is a slow wander (what is said, how one
breathes, how one sits), the speaker's own offset and gain, and sensor noise; and in each something happens: an episode with
onset, apex and offset. In one modality, another in each utterance and known as the truth, the episode goes along that
modality's direction of sentiment, as far as the sentiment is strong. In the others it goes along directions that mean
nothing, as far and as long: neither energy nor length tells which modality to believe, only what the episode is.

Results on it are synthetic, and are called so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from affuse.data.splits import Splits
from affuse.data.synthetic.plans import SPLITS, check_world_seed
from affuse.types import AffuseError, Sample, Task

CLASSES = ("negative", "positive")
STRONGEST = 3.0  # sentiment runs from -3 to 3, as in CMU-MOSI
MEANINGLESS = 4  # directions of a modality along which episodes mean nothing


@dataclass(frozen=True)
class Channel:
    """One sensor's features.

    Args:
        width: numbers a step (d).
        steps: fewest and most steps of an utterance.
        rate_hz: steps a second.
    """

    width: int
    steps: tuple[int, int]
    rate_hz: float


CHANNELS = {
    "text": Channel(24, (8, 24), 3.0),
    "audio": Channel(12, (30, 60), 12.5),
    "video": Channel(16, (24, 48), 10.0),
}


@dataclass(frozen=True)
class Talk:
    """The ``data`` section of a recipe for the synthetic talk world.

    Args:
        task: ``regression`` of the sentiment in [-3, 3], or ``classification`` of its sign.
        train_utterances, validation_utterances, test_utterances: size of each split.
        train_speakers, validation_speakers, test_speakers: no speaker stands in two splits.
        strength: length of an episode at sentiment 3, in standard deviations of the noise of one feature.
        weakest: least absolute sentiment; of nothing there is nothing to tell.
        wander: standard deviation of the slow wander.
        world_seed: what the modalities' directions and the speakers are drawn from; None: the seed of the training.
    """

    task: Literal["regression", "classification"] = "regression"
    train_utterances: int = 2400
    validation_utterances: int = 300
    test_utterances: int = 600
    train_speakers: int = 60
    validation_speakers: int = 10
    test_speakers: int = 20
    strength: float = 10.0
    weakest: float = 1.0
    wander: float = 0.7
    world_seed: int | None = None

    def __post_init__(self) -> None:
        check_world_seed("talk", self.world_seed)
        counts = [getattr(self, f"{split}_{what}") for split in SPLITS for what in ("utterances", "speakers")]
        if min(counts) < 1:
            raise AffuseError("talk: every split needs at least one utterance and one speaker")
        if not 0 < self.weakest < STRONGEST or self.strength <= 0 or self.wander < 0:
            raise AffuseError(
                f"talk: weakest must lie in (0, {STRONGEST:g}), strength be positive and wander not negative; "
                f"got {self.weakest}, {self.strength} and {self.wander}"
            )

    def splits(self, seed: int) -> Splits:
        """Speakers of their own in every split; modalities carry the sentiment in turn."""
        world = World.drawn(self.world_seed if self.world_seed is not None else seed)
        first = np.cumsum([0, *(getattr(self, f"{split}_speakers") for split in SPLITS)])
        sources = {
            split: Utterances(self, world, SPLITS.index(split), int(first[SPLITS.index(split)])) for split in SPLITS
        }
        facts = {
            "name": "synthetic talk world",
            "split": "by speaker: every split has people of its own",
            "counts": {split: len(source) for split, source in sources.items()},
            "subjects_shared": [],
            "bad": 0,
            "world_seed": world.seed,
        }
        task = (
            Task("regression", value_range=(-STRONGEST, STRONGEST), units="sentiment")
            if self.task == "regression"
            else Task("classification", CLASSES)
        )
        return Splits(task, sources["train"], sources["validation"], sources["test"], True, facts)


@dataclass(frozen=True)
class World:
    """What all utterances share: the directions of each modality, orthonormal rows (1 + MEANINGLESS, d), sentiment first."""

    seed: int
    directions: dict[str, NDArray[np.float64]] = field(repr=False)

    @staticmethod
    def drawn(seed: int) -> World:
        rng = np.random.default_rng((seed, 0))
        made = {}
        for name, channel in CHANNELS.items():
            basis, _ = np.linalg.qr(rng.standard_normal((channel.width, 1 + MEANINGLESS)))
            made[name] = basis.T
        return World(seed, made)


class Utterances:
    """Map-style source of utterances, each drawn anew, always the same, from the world's seed and its number."""

    def __init__(self, config: Talk, world: World, split: int, first_speaker: int) -> None:
        self.config, self.world, self.split, self.first_speaker = config, world, split, first_speaker
        self.speakers: int = getattr(config, f"{SPLITS[split]}_speakers")
        self.count: int = getattr(config, f"{SPLITS[split]}_utterances")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int, /) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        rng = np.random.default_rng((self.world.seed, 1 + self.split, index))
        speaker = self.first_speaker + int(rng.integers(self.speakers))
        informative = list(CHANNELS)[index % len(CHANNELS)]
        sentiment = float(rng.choice((-1, 1)) * rng.uniform(self.config.weakest, STRONGEST))
        inputs, times_us, episodes = {}, {}, {}
        for name, channel in CHANNELS.items():
            steps = int(rng.integers(channel.steps[0], channel.steps[1] + 1))
            features, episodes[name] = self._features(name, steps, speaker, sentiment, name == informative, rng)
            inputs[name] = features
            times_us[name] = torch.from_numpy(np.round(np.arange(steps) * 1e6 / channel.rate_hz).astype(np.int64))
        regression = self.config.task == "regression"
        meta: dict[str, Any] = {
            "id": f"{SPLITS[self.split]}_{index:05d}",
            "subject": f"speaker_{speaker:03d}",
            "condition": f"in {informative}",
            "truth": {"informative": informative, "sentiment": sentiment, "apex_us": episodes[informative]},
        }
        return Sample(inputs, sentiment if regression else int(sentiment > 0), times_us, meta)

    def _features(
        self, name: str, steps: int, speaker: int, sentiment: float, tells: bool, rng: np.random.Generator
    ) -> tuple[Float[Tensor, "t d"], int]:
        """The sequence of one modality, and the time of its episode's apex in microseconds."""
        channel, config = CHANNELS[name], self.config
        person = np.random.default_rng((self.world.seed, 100, speaker, list(CHANNELS).index(name)))
        offset, gain = person.standard_normal(channel.width) / 2, person.uniform(0.8, 1.25)
        directions = self.world.directions[name]
        if tells:
            course = sentiment / STRONGEST * directions[0]
        else:
            # As long an episode as a telling one would be, another strength drawn, along what means nothing.
            mixture = rng.standard_normal(MEANINGLESS)
            length = rng.uniform(config.weakest, STRONGEST) / STRONGEST
            course = length * (mixture / np.linalg.norm(mixture)) @ directions[1:]
        times_s = np.arange(steps) / channel.rate_hz
        apex = rng.uniform(0.25, 0.75) * times_s[-1]
        width = rng.uniform(0.12, 0.3) * times_s[-1]
        envelope = np.exp(-0.5 * ((times_s - apex) / width) ** 2)  # t
        wander = _wander(steps, channel, rng) * config.wander  # t d
        noise = rng.standard_normal((steps, channel.width))
        features = gain * (offset + wander + config.strength * envelope[:, None] * course) + noise  # t d
        return torch.from_numpy(features.astype(np.float32)), round(apex * 1e6)


def _wander(steps: int, channel: Channel, rng: np.random.Generator) -> NDArray[np.float64]:
    """(t, d): a first-order autoregression with a memory of one second and standard deviation 1."""
    memory = np.exp(-1 / channel.rate_hz)
    drive = rng.standard_normal((steps, channel.width)) * np.sqrt(1 - memory**2)
    walk = np.empty_like(drive)
    state = rng.standard_normal(channel.width)
    for step in range(steps):
        state = memory * state + drive[step]
        walk[step] = state
    return walk
