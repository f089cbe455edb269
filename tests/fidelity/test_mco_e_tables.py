"""The published tables of MCO-E Net are data, and each row of Tables 2 to 6 is a setting that can be built and run."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from affuse.recipe import load_recipe, resolve
from affuse.systems.mco_e import MCOEConfig, MCOENet
from affuse.types import Batch, Task

ROOT = Path(__file__).parents[2]
PUBLISHED = yaml.safe_load((ROOT / "papers" / "mco_e.yaml").read_text())
ROWS = {(table["table"], row["row"]): row for table in PUBLISHED["tables"] for row in table["rows"]}
OURS = {key: row for key, row in ROWS.items() if row["setting"] is not None}
SMALL = {"encoder": "small", "d_model": 16, "d_state": 4, "heads": 2}
TASK = Task("classification", tuple("abcdefg"))
# Sequences of SEE's official test part, by expression and by light (tests/data/test_see.py counts them from the names).
BY_EXPRESSION = {
    "happy": 89, "sadness": 100, "anger": 119, "disgust": 124, "surprise": 130, "fear": 113, "neutral": 92
}  # fmt: skip
BY_LIGHT = {"normal": 196, "overexposure": 201, "low_light": 189, "hdr": 181}


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


def numbers_of(table: int, start: str) -> dict[str, float]:
    (row,) = [row for (number, name), row in ROWS.items() if number == table and name.startswith(start)]
    return row["numbers"]


def mean(numbers: dict[str, float], counts: dict[str, int]) -> float:
    return sum(numbers[name] * count for name, count in counts.items()) / sum(counts.values())


@pytest.mark.parametrize("name", [name for table, name in ROWS if table == 1])
def test_uar_of_table_1_is_the_mean_of_its_recalls(name: str) -> None:
    numbers = ROWS[1, name]["numbers"]
    assert numbers["uar"] == pytest.approx(mean(numbers, dict.fromkeys(BY_EXPRESSION, 1)), abs=0.1)


def test_war_of_table_1_is_the_accuracy_over_the_official_test_part_but_for_emo() -> None:
    rows = {name: row["numbers"] for (table, name), row in ROWS.items() if table == 1}
    for counts in (BY_EXPRESSION, BY_LIGHT):
        assert sum(counts.values()) == 767
        odd = {name for name, numbers in rows.items() if abs(numbers["war"] - mean(numbers, counts)) > 0.1}
        assert odd == {"EMO", "EMO w/o pre-train"}  # as printed


def test_the_text_s_margins_are_those_of_the_tables() -> None:
    ours = numbers_of(1, "Ours")
    others = [row["numbers"] for (table, name), row in ROWS.items() if table == 1 and name != "Ours"]
    margins = {"war": 4.4, "uar": 4.2, "normal": 3.1, "overexposure": 3.5, "low_light": 5.3, "hdr": 5.0}  # section 4.2
    for name, margin in margins.items():
        assert ours[name] - max(numbers[name] for numbers in others) == pytest.approx(margin, abs=0.01)
    linear = numbers_of(2, "F.")  # section 4.3.3
    assert (ours["war"] - linear["war"], ours["uar"] - linear["uar"]) == (pytest.approx(2.4), pytest.approx(2.2))


def test_the_recipe_of_see_has_the_settings_of_section_4_1() -> None:
    recipe = load_recipe(ROOT / "recipes" / "mco_e" / "see.yaml", ["--data.root", "nowhere"])
    said, training = PUBLISHED["protocol"], recipe.training
    assert {"epochs", "batch_size", "optimizer", "lr", "weight_decay"} <= set(said)
    for name in ("epochs", "batch_size", "optimizer", "lr", "weight_decay"):
        assert getattr(training, name) == said[name], name
    assert recipe.data.clip.frames == said["frames"]  # type: ignore[attr-defined]
    assert recipe.data.clip.event_channels == recipe.system.event_channels == said["event_channels"]  # type: ignore[attr-defined]
    assert (recipe.data_name, recipe.data.split) == (said["dataset"], said["split"])  # type: ignore[attr-defined]
    base = {name: getattr(recipe.system, name) for name in PUBLISHED["base"]}
    assert base == PUBLISHED["base"]


def test_the_recipe_of_see_takes_two_frames_as_far_apart_as_the_released_code_does() -> None:
    clip = load_recipe(ROOT / "recipes" / "mco_e" / "see.yaml", ["--data.root", "nowhere"]).data.clip  # type: ignore[attr-defined]
    assert (clip.frames - 1) * clip.stride == (4 - 1) * 4


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
