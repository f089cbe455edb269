"""The published tables of MCO-E Net are data, and each row of Tables 2 to 6 is a setting that can be built and run."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from affuse.recipe import resolve
from affuse.systems.mco_e import MCOEConfig, MCOENet
from affuse.types import Batch, Task

PUBLISHED = yaml.safe_load((Path(__file__).parents[2] / "papers" / "mco_e.yaml").read_text())
ROWS = {(table["table"], row["row"]): row for table in PUBLISHED["tables"] for row in table["rows"]}
OURS = {key: row for key, row in ROWS.items() if row["setting"] is not None}
SMALL = {"encoder": "small", "d_model": 16, "d_state": 4, "heads": 2}
TASK = Task("classification", tuple("abcdefg"))


def config_of(setting: dict[str, Any], **changes: Any) -> MCOEConfig:
    """Through the recipe's own validation, as a user would set it."""
    system = {"name": "mco_e", **PUBLISHED["base"], **setting, **changes}
    recipe = resolve(
        {"system": system, "data": {"name": "see", "root": "nowhere"}, "training": {}}, "papers/mco_e.yaml"
    )
    return recipe.system


def test_tables_have_all_published_rows() -> None:
    counts = {table["table"]: len(table["rows"]) for table in PUBLISHED["tables"]}
    assert counts == {1: 14, 2: 9, 3: 11, 4: 5, 5: 4, 6: 4}
    assert {key for key in ROWS if key not in OURS} == {key for key in ROWS if key[0] == 1 and key[1] != "Ours"}


def test_numbers_are_percentages_and_the_whole_model_is_the_same_in_every_table() -> None:
    assert all(0 <= value <= 100 for row in ROWS.values() for value in row["numbers"].values())
    whole = [row["numbers"] for (table, name), row in ROWS.items() if "Ours" in name or name.startswith("K.")]
    assert len(whole) == 6
    assert {(numbers["war"], numbers["uar"]) for numbers in whole} == {(91.3, 91.9)}


def test_the_whole_model_is_the_default_of_the_paper_in_every_table() -> None:
    settings = [row["setting"] for (table, name), row in OURS.items() if "Ours" in name or name.startswith("K.")]
    assert {config_of(setting) for setting in settings} == {config_of({})}


def test_different_rows_of_a_table_are_different_settings() -> None:
    for table in PUBLISHED["tables"]:
        configs = [config_of(row["setting"]) for row in table["rows"] if row["setting"] is not None]
        assert len(set(configs)) == len(configs)


@pytest.mark.parametrize("key", OURS, ids=lambda key: f"table {key[0]} {key[1][:24]}")
def test_every_row_can_be_built_answers_and_trains(key: tuple[int, str]) -> None:
    torch.manual_seed(0)
    model = MCOENet(config_of(OURS[key]["setting"], **SMALL), TASK)
    inputs = {name: torch.randn(3, 2, 3, 32, 32) for name in ("rgb", "event")}
    batch = Batch(inputs, torch.ones(3, 2, dtype=torch.bool), target=torch.tensor([0, 3, 6]))
    output = model(batch)
    assert output.logits.shape == (3, 7)
    loss = model.loss(output, batch)["total"]
    loss.backward()
    assert torch.isfinite(loss)
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())
