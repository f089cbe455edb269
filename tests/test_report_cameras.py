"""The report on sensors one by one, look-alike classes and attention: drawn where it is known, left out elsewhere."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from affuse import Task, metrics, report, report_cameras
from affuse.report_cameras import (
    attention_heat,
    attention_over_frames,
    figures,
    frame_shares,
    look_alike_pairs,
    visible,
)

CLASSES = ["opening", "closing", "drinking", "reading"]
CAMERAS = ["rgb", "infrared", "depth"]


def records(count: int = 160, cameras: list[str] = CAMERAS) -> list[dict]:
    """At night RGB says anything; depth takes opening for closing; together they are right but for every tenth opening."""
    made = []
    for i in range(count):
        target, night = i % 4, i % 8 >= 4
        said = {
            "rgb": (target + i // 8) % 4 if night else target,
            "infrared": target,
            "depth": 0 if target == 1 else target,
        }
        together = 1 if target == 0 and i % 40 == 0 else target
        made.append(
            {
                "id": str(i),
                "crop": 0,
                "subject": f"vp{i % 5}",
                "condition": "night" if night else "day",
                "target": target,
                "prediction": together,
                "probabilities": np.eye(4)[together].tolist(),
                "answered": True,
                "weights": {"modality": [1 / len(cameras)] * len(cameras)},
                "unimodal": {name: np.eye(4)[said[name]].tolist() for name in cameras},
                "truth": {},
            }
        )
    return made


def drawn(made: list[dict], cameras: list[str] = CAMERAS, classes: list[str] = CLASSES) -> dict[str, str]:
    summary = metrics.summarise(made, Task("classification", tuple(classes)), cameras)
    return {title: str(svg) for title, _, svg in figures(made, summary, cameras, classes) if svg}


@given(st.lists(st.lists(st.integers(0, 5), min_size=5, max_size=5), min_size=4, max_size=4))
def test_look_alike_pairs_are_the_largest_confusions_both_ways(confusion: list[list[int]]) -> None:
    pairs = look_alike_pairs(confusion)
    sums = [a_for_b + b_for_a for _, _, a_for_b, b_for_a in pairs]
    assert sums == sorted(sums, reverse=True) and all(sums)
    assert sum(sums) == sum(confusion[a][b] for a in range(4) for b in range(4) if a != b)
    assert all(
        a < b and (confusion[a][b], confusion[b][a]) == counts for a, b, *rest in pairs for counts in [tuple(rest)]
    )
    assert look_alike_pairs(confusion, 1) == pairs[:1]


def test_look_alikes_are_named_with_their_counts() -> None:
    found = drawn(records())
    assert "opening / closing" in found["Look-alike classes"] and "4 + 0" in found["Look-alike classes"]
    assert "depth alone" in found["Look-alike classes"] and "reading" not in found["Look-alike classes"]


def test_each_sensor_alone_is_held_against_all_together() -> None:
    text = drawn(records())["Each sensor alone, and together"]
    assert all(f"{name} alone" in text for name in CAMERAS)
    assert ">25<" in text  # depth is wrong of closing, where together they are right


def test_conditions_show_where_a_sensor_fails() -> None:
    text = drawn(records())["Right in each condition"]
    assert "night" in text and "together" in text and ">100<" in text and ">75<" in text


def test_what_is_not_known_is_not_drawn() -> None:
    right = [record | {"prediction": record["target"]} for record in records()]
    assert "Look-alike classes" not in drawn(right)
    assert set(drawn([record | {"unimodal": {}} for record in records()])) == {"Look-alike classes"}
    assert "Right in each condition" not in drawn([record | {"condition": "day"} for record in records()])
    assert not figures([], {}, CAMERAS, [])[0][2] and len([1 for _, _, svg in figures([], {}, CAMERAS, []) if svg]) == 0


def test_a_sensor_that_is_absent_somewhere_is_measured_where_it_is() -> None:
    made = records()
    for record in made:
        if record["condition"] == "night":
            record["unimodal"]["rgb"] = None
    found = drawn(made)
    assert "rgb alone" in found["Each sensor alone, and together"] and "Right in each condition" in found


def test_attention_is_drawn_by_sensor_and_left_out_of_one_that_has_none() -> None:
    maps = [("day", {"rgb": torch.rand(4, 2, 2), "depth": torch.rand(8)}), ("night", {"depth": torch.rand(8)})]
    text = str(attention_over_frames(maps, CAMERAS))
    assert "rgb" in text and "depth" in text and "infrared" not in text and "night" in text
    assert attention_over_frames([("day", {})], CAMERAS) is None


@given(st.integers(1, 8), st.integers(1, 4), st.integers(1, 4))
def test_frame_shares_sum_to_one_and_follow_the_frames(t: int, y: int, x: int) -> None:
    attention = torch.rand(t, y, x) + 0.01
    shares = frame_shares(attention)
    assert shares.shape == (t,) and float(shares.sum()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(shares, attention.sum((1, 2)) / attention.sum())


def test_heat_is_warmest_where_the_attention_is_and_tokens_may_last_several_frames() -> None:
    attention = torch.zeros(2, 4, 4)
    attention[1, 3, 0] = 1
    heat = attention_heat(attention, 4, 16, 16)
    assert heat is not None and heat.shape == (4, 16, 16) and float(heat.max()) == 1
    assert not heat[:2].any()
    assert torch.equal(heat[2], heat[3]) and float(heat[2, 14:, :2].min()) > 0.5 and not heat[2, :8, 8:].any()
    assert attention_heat(torch.ones(4), 4, 16, 16) is None


def test_a_lost_frame_is_dark_and_a_mask_is_not_shown() -> None:
    images = np.ones((3, 2, 4, 4), np.float32)
    images[:, 0, 0, 0] = -1
    images[1] = np.nan
    shown = visible(images)
    assert shown.shape == (3, 1, 4, 4) and (shown[1] == -1).all() and (shown[0] != -1).any()
    assert not visible(np.full((2, 3, 4, 4), np.nan, np.float32)).any()


def test_a_run_with_attention_and_lost_frames_has_it_in_its_report(tmp_path: Path) -> None:
    made = records()
    summary = metrics.summarise(made, Task("classification", tuple(CLASSES)), CAMERAS)
    (tmp_path / "metrics.json").write_text(json.dumps(summary))
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in made))
    info = {"system": "mome", "modalities": CAMERAS, "task": {"kind": "classification", "classes": CLASSES}}
    (tmp_path / "run.json").write_text(json.dumps(info))
    images = torch.rand(4, 1, 12, 12)
    images[2] = torch.nan
    tensors = {"0/depth/input": images.half(), "0/depth/attention": torch.rand(4, 3, 3).half()}
    example = {"id": "a", "condition": "night", "target": 0, "prediction": 0, "weights": {"depth": 0.7}}
    save_file(tensors, tmp_path / "examples.safetensors", metadata={"examples": json.dumps([example])})
    page = report.write_report(tmp_path).read_text()
    for text in (
        "Look-alike classes",
        "Each sensor alone, and together",
        "Attention over the frames",
        "below: attention",
    ):
        assert text in page
    assert page.count("data:image/png") == 1 and report_cameras.ATTENTION in page
