"""What is published of MoME + HTL is data, and each row that the summary names is a setting."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from affuse.recipe import resolve
from affuse.systems.mome import MoME, MoMEConfig
from affuse.types import Batch, Sample, Task

ROOT = Path(__file__).parents[2]
PUBLISHED = yaml.safe_load((ROOT / "papers" / "mome.yaml").read_text())
ROWS = {row["row"]: row for table in PUBLISHED["tables"] for row in table["rows"]}
SMALL: dict[str, Any] = {"width": 8, "heads": 2, "frames": 2, "grid": 2, "gate_dropout": 0.0, "dropout": 0.0}


def config_of(setting: dict[str, Any], **changes: Any) -> MoMEConfig:
    """Through the recipe's own validation, as a user would set it."""
    system = {"name": "mome", **PUBLISHED["base"], **setting, **changes}
    return resolve({"system": system, "data": {"name": "talk"}, "training": {}}, "papers/mome.yaml").system


def test_only_the_whole_model_has_numbers_since_no_other_is_known() -> None:
    assert {name: row["numbers"] for name, row in ROWS.items() if row["numbers"]} == {
        "MoME + HTL": {"mean_1": 73.83, "top_1": 83.94}
    }


def test_the_whole_model_is_the_default() -> None:
    assert config_of({}) == MoMEConfig() == config_of(ROWS["MoME + HTL"]["setting"])


def test_rows_differ_in_their_settings() -> None:
    assert len({repr(config_of(row["setting"])) for row in ROWS.values()}) == len(ROWS) == 9


@pytest.mark.parametrize("name", ROWS)
def test_every_row_can_be_built_answers_and_trains(name: str) -> None:
    torch.manual_seed(0)
    model = MoME(config_of(ROWS[name]["setting"], **SMALL), Task("classification", ("a", "b", "c")))
    channels = {"rgb": 3, "infrared": 1, "depth": 1}
    samples = [Sample({n: torch.randn(2, c, 16, 16) for n, c in channels.items()}, target=row % 3) for row in range(4)]
    batch = Batch.collate(samples)
    output = model(batch)
    terms = model.loss(output, batch)
    terms["total"].backward()
    assert output.logits.shape == (4, 3)
    assert output.weights["modality"].shape == (4, len(model.modalities))
    assert ("self" in terms) == model.config.self_guidance
    assert all(p.grad is not None and p.grad.any() for n, p in model.experts.named_parameters() if ".key" not in n)
