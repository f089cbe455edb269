"""The published tables of TAAF-SNN are data, and each of their rows that is ours is a setting."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from affuse.recipe import resolve
from affuse.systems.taaf import TAAF, TAAFConfig
from affuse.types import Batch, Sample, Task

ROOT = Path(__file__).parents[2]
PUBLISHED = yaml.safe_load((ROOT / "papers" / "taaf.yaml").read_text())
ROWS = {
    (table["table"], row.get("dataset", ""), row["row"]): row for table in PUBLISHED["tables"] for row in table["rows"]
}
OURS = {key: row for key, row in ROWS.items() if row["setting"] is not None}
SMALL: dict[str, Any] = {
    "encoders": {
        "audio": {"kind": "recurrent", "features": 3, "layers": [5]},
        "visual": {"features": 4, "layers": [5]},
    },
    "width": 6,
}


def config_of(setting: dict[str, Any], **changes: Any) -> TAAFConfig:
    """Through the recipe's own validation, as a user would set it."""
    system = {"name": "taaf", **PUBLISHED["base"], **setting, **changes}
    return resolve({"system": system, "data": {"name": "talk"}, "training": {}}, "papers/taaf.yaml").system


def test_tables_have_all_published_rows() -> None:
    assert {table["table"]: len(table["rows"]) for table in PUBLISHED["tables"]} == {1: 29, 2: 12}
    assert len(ROWS) == 41
    others = {"WeightAttention", "SCA", "CMCI", "S-CMRL", "MISNET-L", "MISNET-XL"}
    assert {key[2].split()[0] for key in ROWS if key not in OURS} == others


def test_numbers_are_percentages_and_the_whole_model_is_the_same_in_both_tables() -> None:
    assert all(50 < value < 80 for row in ROWS.values() for value in row["numbers"].values())
    for fusion in ("concat", "sum"):
        whole = ROWS[2, "", f"TAAF {fusion}"]["numbers"]
        assert whole == {data: ROWS[1, data, f"TAAF {fusion}"]["numbers"]["accuracy"] for data in ("ave", "crema_d")}


def test_the_text_s_margin_over_cmci_is_the_table_s() -> None:
    ours, cmci = (ROWS[1, "crema_d", name]["numbers"]["accuracy"] for name in ("TAAF concat", "CMCI"))
    assert ours - cmci == pytest.approx(7.53)


def test_the_whole_model_is_the_default() -> None:
    assert config_of({}) == TAAFConfig() == config_of(OURS[2, "", "TAAF concat"]["setting"])


def test_rows_of_one_data_set_differ_in_their_settings() -> None:
    keys = [(key[:2], repr(row["setting"]), repr(row.get("training"))) for key, row in OURS.items()]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("key", OURS, ids=lambda key: "-".join(str(part) for part in key))
def test_every_row_can_be_built_answers_and_trains(key: tuple[int, str, str]) -> None:
    torch.manual_seed(0)
    taaf = TAAF(config_of(OURS[key]["setting"], **SMALL), Task("classification", ("a", "b", "c")))
    batch = Batch.collate(
        [Sample({"audio": 3 * torch.randn(3, 3), "visual": 3 * torch.randn(3, 4)}, target=row % 3) for row in range(4)]
    )
    output = taaf(batch)
    assert output.logits.shape == (4, 3)
    loss = taaf.loss(output, batch)
    loss["total"].backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in taaf.branches.parameters())
    relu = OURS[key]["setting"].get("neuron") is not None
    spikes = taaf.branches["audio"](batch.inputs["audio"])[0].unique().tolist()
    assert relu or set(spikes) <= {0.0, 1.0}
    if relu:
        assert loss["total"].item() == pytest.approx(loss["fused"].item())


@pytest.mark.parametrize(
    ("row", "attention", "align"),
    [("LA concat", False, False), ("LA and TA concat", False, True), ("without TA concat", True, False)],
)
def test_the_ablations_leave_out_what_they_say(row: str, attention: bool, align: bool) -> None:
    taaf = TAAF(config_of(OURS[2, "", row]["setting"], **SMALL), Task("classification", ("a", "b")))
    assert (taaf.fused_attention is not None) == attention
    assert any("alignment" in name for name, _ in taaf.named_parameters()) == align
    assert taaf.config.modulation == "batch"
