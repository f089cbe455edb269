"""TAAF-SNN's recipes for real recordings, trained for an epoch of a few batches; the history tells of all that they promise."""

import math
import os
from pathlib import Path

import pytest

from affuse import fit, runs
from affuse.data import DATASETS
from affuse.data.splits import SampleSource, Splits
from affuse.recipe import load_recipe
from affuse.types import Sample

ROOT = Path(__file__).parents[2]
REAL = Path(os.environ.get("AFFUSE_DATA", ROOT / "../shared/data"))
FEW = 40


class First:
    """A few samples of a split, evenly spaced."""

    def __init__(self, source: SampleSource) -> None:
        self.source, self.step = source, max(1, len(source) // FEW)

    def __len__(self) -> int:
        return min(FEW, len(self.source))

    def __getitem__(self, index: int, /) -> Sample:
        return self.source[index * self.step]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "folders", "data", "modalities"),
    [
        ("digits", ("nmnist", "fsdd"), ".", {"event", "audio"}),
        ("ravdess", ("ravdess",), "ravdess", {"audio", "action_units"}),
    ],
)
def test_a_recipe_trains_on_real_recordings(
    name: str, folders: tuple[str, ...], data: str, modalities: set[str], tmp_path: Path
) -> None:
    absent = [folder for folder in folders if not (REAL / folder).is_dir()]
    if absent:
        pytest.skip(f"AFFUSE_DATA holds no folder {' or '.join(absent)}")
    settings = ["--data.root", str(REAL / data), "--training.epochs", "1"]
    recipe = load_recipe(ROOT / "recipes" / "taaf" / f"{name}.yaml", settings)
    assert isinstance(recipe.data, DATASETS[recipe.data_name])
    whole = recipe.data.splits(recipe.training.seed)
    few = Splits(
        whole.task, First(whole.train), First(whole.validation), First(whole.test), whole.synthetic, whole.facts
    )
    out = fit.fit(recipe, tmp_path / "run", progress=False, splits=few, with_report=False)
    (row,) = runs.read_lines(out / runs.HISTORY)
    assert math.isfinite(row["train/total"]) and row["train/total"] > 0
    for modality in modalities:
        assert 0 < row[f"train/k/{modality}"] <= 1
        assert 0 <= row[f"validation/unimodal/{modality}/war"] <= 1
        assert row[f"validation/ratio/{modality}"] > 0
    # The loss of the fused answer is one of the terms of the total, none of which is below 0.
    assert 0 < row["validation/fused"] < row["validation/total"]
    steps = [value for key, value in row.items() if key.startswith("validation/time/")]
    assert sum(steps) == pytest.approx(1, abs=1e-4)
    assert runs.read_info(out)["status"] == "complete"
