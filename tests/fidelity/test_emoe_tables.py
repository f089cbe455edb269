"""The published tables of EMOE are data, and each row of Tables 4 to 6 and each axis of Figure 4 is a setting."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from affuse.recipe import load_recipe, resolve
from affuse.systems.emoe import EMOE, EMOEConfig
from affuse.types import Batch, Sample, Task

ROOT = Path(__file__).parents[2]
PUBLISHED = yaml.safe_load((ROOT / "papers" / "emoe.yaml").read_text())
ROWS = {(table["table"], row["row"]): row for table in PUBLISHED["tables"] for row in table["rows"]}
OURS = {key: row for key, row in ROWS.items() if row["setting"] is not None}
SMALL = {"widths": {"text": 6, "audio": 3, "video": 4}, "d_model": 8, "heads": 2, "layers": 1, "router_width": 4}


def config_of(setting: dict[str, Any], **changes: Any) -> EMOEConfig:
    """Through the recipe's own validation, as a user would set it."""
    system = {"name": "emoe", **PUBLISHED["base"], **setting, **changes}
    return resolve({"system": system, "data": {"name": "talk"}, "training": {}}, "papers/emoe.yaml").system


def numbers(table: int, name: str) -> dict[str, float]:
    return ROWS[table, name]["numbers"]


def test_tables_have_all_published_rows() -> None:
    counts = {table["table"]: len(table["rows"]) for table in PUBLISHED["tables"]}
    assert counts == {1: 26, 2: 26, 3: 4, 4: 4, 5: 3, 6: 4}
    assert {key for key in ROWS if key not in OURS} == {key for key in ROWS if key[0] <= 3 and "Ours" not in key[1]}


def test_numbers_are_percentages_and_errors_are_small() -> None:
    for row in ROWS.values():
        for name, value in row["numbers"].items():
            assert 0.5 < value < 1.5 if name == "mae" else 30 < value < 90


def test_the_whole_model_is_the_same_in_every_table_but_for_one_f1() -> None:
    for data in ("aligned", "unaligned"):
        ours = numbers(1, f"EMOE (Ours) {data}")
        assert numbers(6, f"Sum {data}") == {name: ours[name] for name in ("acc7", "acc2", "f1")}
    assert numbers(4, "MoME and UD") == numbers(1, "EMOE (Ours) aligned")
    printed = {**numbers(5, "Ours"), "f1": 85.3}  # Table 5 prints 85.4
    assert printed == numbers(6, "Sum unaligned")


def test_the_text_s_margins_are_those_of_the_tables() -> None:
    ours, theirs = (numbers(1, f"{name} aligned") for name in ("EMOE (Ours)", "DMD"))
    assert ours["acc7"] - theirs["acc7"] == pytest.approx(1.5)
    ours, theirs = (numbers(1, f"{name} unaligned") for name in ("EMOE (Ours)", "DMD"))
    assert ours["acc7"] - theirs["acc7"] == pytest.approx(1.1)
    assert numbers(1, "EMOE (Ours) aligned")["f1"] - numbers(1, "Self-MM aligned")["f1"] == pytest.approx(0.5)
    assert (numbers(3, "MISA")["precision"], numbers(3, "EMOE (Ours)")["precision"]) == (71.24, 72.08)
    assert (numbers(4, "MoME")["acc7"], numbers(4, "MoME and UD")["acc7"]) == (46.2, 47.7)  # section 4.2, of UD


def test_the_whole_model_is_the_default_of_the_paper_in_every_table() -> None:
    whole = EMOEConfig()
    for table, name in [(1, "EMOE (Ours) aligned"), (2, "EMOE (Ours) unaligned"), (3, "EMOE (Ours)"), (4, "MoME and UD"),
                        (5, "Ours"), (6, "Sum aligned"), (6, "Sum unaligned")]:  # fmt: skip
        assert config_of(OURS[table, name]["setting"]) == whole


def test_rows_of_one_table_and_data_differ_in_their_settings() -> None:
    for table in (4, 5, 6):
        keys = [(row["data"], repr(row["setting"])) for (number, _), row in OURS.items() if number == table]
        assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("key", OURS, ids=lambda key: f"{key[0]}-{key[1]}")
def test_every_row_can_be_built_answers_and_trains(key: tuple[int, str]) -> None:
    torch.manual_seed(0)
    intent = key[0] == 3
    task = (
        Task("classification", tuple("abcdefghijklmnopqrst")) if intent else Task("regression", value_range=(-3.0, 3.0))
    )
    emoe = EMOE(config_of(OURS[key]["setting"], **SMALL), task)
    samples = [
        Sample(
            {name: torch.randn(4 + row, d) for name, d in SMALL["widths"].items()}, target=row if intent else row - 1.5
        )
        for row in range(4)
    ]
    batch = Batch.collate(samples, emoe.modalities)
    before = [parameter.detach().clone() for parameter in emoe.parameters()]
    optimizer = torch.optim.AdamW(emoe.parameters(), 1e-3)
    output = emoe(batch)
    assert output.logits.shape == (4, 20 if intent else 1)
    emoe.loss(output, batch)["total"].backward()
    optimizer.step()
    assert any(not torch.equal(old, new) for old, new in zip(before, emoe.parameters(), strict=True))


def test_every_axis_of_figure_4_is_a_setting_that_changes_the_loss() -> None:
    (figure,) = [figure for figure in PUBLISHED["figures"] if figure["figure"] == 4]
    batch = Batch.collate(
        [
            Sample({n: torch.full((3 + r, d), 0.3 * r) for n, d in SMALL["widths"].items()}, target=0.5 * r)
            for r in range(3)
        ],
        ("text", "audio", "video"),
    )

    def total(**changes: Any) -> float:
        torch.manual_seed(0)
        emoe = EMOE(config_of({}, **SMALL, **changes), Task("regression")).eval()
        return emoe.loss(emoe(batch), batch)["total"].item()

    assert set(figure["axes"]) == {"alpha", "lambda1", "lambda2", "temperature"}
    for axis in figure["axes"]:
        assert abs(total(**{axis: 0.5}) - total()) > 1e-5, axis


@pytest.mark.parametrize("name", ["mosi_aligned", "mosi_unaligned", "mosei_aligned", "mosei_unaligned", "mintrec"])
def test_the_recipes_have_the_settings_of_section_4(name: str) -> None:
    recipe = load_recipe(ROOT / "recipes" / "emoe" / f"{name}.yaml", ["--data.root", "nowhere"])
    said = PUBLISHED["protocol"]
    assert (recipe.training.batch_size, recipe.training.epochs) == (said["batch_size"], said["epochs"])
    base = {key: getattr(recipe.system, key) for key in PUBLISHED["base"]}
    assert base == PUBLISHED["base"]
    assert recipe.training.select_on == "validation"
    if name != "mintrec":
        data: Any = recipe.data
        assert f"{data.dataset}_{data.alignment}" == name


def test_the_recipes_of_mosi_build_the_released_network_too() -> None:
    """On the meta device, without a text encoder: its 197 million parameters of the router alone need no memory there."""
    for name, inputs in {"mosi_aligned": 50 * (768 + 5 + 20), "mosei_unaligned": 50 * (768 + 74 + 35)}.items():
        recipe = load_recipe(ROOT / "recipes" / "emoe" / f"{name}.yaml", ["--data.root", "nowhere"])
        config = dataclasses.replace(recipe.system, variant="as_released", text_encoder=None)
        with torch.device("meta"):
            router: Any = EMOE(config, Task("regression")).trunk.router
        assert router.hidden.in_features == inputs
