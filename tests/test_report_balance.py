"""The balance figures of a report: drawn of any system whose history holds their columns, left out elsewhere."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affuse import report, report_balance, report_plots
from affuse.report_balance import ALONE, SHARE, STEPS, TIME

EPOCHS = 8


def rows(names: tuple[str, ...] = ("audio", "visual"), steps: int = 4) -> list[dict]:
    """A history such as `affuse.fit` writes of a system with unimodal logits and time weights."""
    made = []
    for epoch in range(EPOCHS):
        row: dict = {"epoch": epoch, "validation/war": 0.3 + 0.07 * epoch, "validation/total": 2 * 0.8**epoch}
        for number, name in enumerate(names):
            row[f"validation/unimodal/{name}/war"] = 0.2 + 0.05 * epoch / (1 + number)
            row[f"validation/unimodal/{name}/loss"] = 1.8 * 0.9**epoch + number
            row[f"validation/ratio/{name}"] = 1.5 if number == 0 else 1 / 1.5
            row[f"train/k/{name}"] = 1 - 0.5 * (number == 0)
        weights = np.random.default_rng(epoch).dirichlet([1] * steps)
        made.append(row | {f"validation/time/{step}": float(weight) for step, weight in enumerate(weights)})
    return made


def answers(steps: int = 4) -> list[dict]:
    generator = np.random.default_rng(0)
    return [{"weights": {"time": generator.dirichlet([1] * steps).tolist()}} for _ in range(30)]


def drawn(history: list[dict], records: list[dict]) -> dict[str, str]:
    found = report_balance.figures(history, records)
    return {title: str(drawing) for title, _, drawing in found if drawing is not None}


def texts(drawing: str) -> list[str]:
    return re.findall(r"<text [^>]*>([^<]*)</text>", drawing)


def test_every_figure_is_drawn_of_a_history_that_has_its_columns() -> None:
    found = drawn(rows(), answers())
    assert list(found) == [ALONE, SHARE, TIME]
    for title in (ALONE, SHARE):
        assert {"audio", "visual", "epoch"} <= set(texts(found[title]))
    assert {"fused", "loss", "accuracy (WAR), %"} <= set(texts(found[ALONE]))
    assert {"contribution ratio, validation", "factor k of the loss"} <= set(texts(found[SHARE]))
    assert "coefficient" not in texts(found[SHARE])
    assert "weight, % (dashed: even)" in texts(found[TIME])


def test_a_history_without_these_columns_draws_nothing() -> None:
    plain = [{"epoch": 0, "validation/war": 0.5, "validation/total": 1.0, "train/total": 1.0}]
    assert drawn(plain, [{"weights": {"modality": [0.5, 0.5]}}, {}]) == {}
    assert drawn([], []) == {}


@pytest.mark.parametrize(
    ("prefix", "gone"),
    [("validation/unimodal/", ALONE), ("validation/time/", None), ("validation/ratio/", None)],
)
def test_a_missing_column_takes_only_its_own_part_away(prefix: str, gone: str | None) -> None:
    left = [{key: value for key, value in row.items() if not key.startswith(prefix)} for row in rows()]
    full, less = drawn(rows(), answers()), drawn(left, answers())
    assert set(full) - set(less) == ({gone} if gone else set())
    changed = {title for title in less if less[title] != full[title]}
    assert changed == {"validation/unimodal/": set(), "validation/time/": {TIME}, "validation/ratio/": {SHARE}}[prefix]


def test_coefficients_and_ratios_of_a_balancing_method_are_drawn() -> None:
    history = [
        {"epoch": 0, "train/ratio/a": 2.0, "train/ratio/b": 0.5, "train/coefficient/a": 0.4, "train/coefficient/b": 1.0}
    ]
    found = texts(drawn(history, [])[SHARE])
    assert "contribution ratio, training" in found and "coefficient" in found
    # Where validation has them, those of the training batches are left out.
    also = [history[0] | {"validation/ratio/a": 1.2, "validation/ratio/b": 0.8}]
    found = texts(drawn(also, [])[SHARE])
    assert "contribution ratio, training" not in found and "contribution ratio, validation" in found


def test_a_regression_draws_its_errors() -> None:
    history = [{"epoch": 0, "validation/mae": 0.8, "validation/unimodal/text/mae": 1.1, "validation/war": None}]
    found = texts(drawn(history, [])[ALONE])
    assert "mean absolute error" in found and "accuracy (WAR), %" not in found


def test_the_fused_loss_is_its_own_term_where_the_history_has_it() -> None:
    history = [row | {"validation/fused": 0.1 * row["validation/total"]} for row in rows()]

    def fused(of: list[dict]) -> tuple[list[tuple[int, float]], str]:
        panel = next(panel for panel in report_balance._alone(of) if panel.label == "loss")
        curve = next(curve for curve in panel.curves if curve.name == "fused")
        return curve.points, report_balance.figures(of, [])[0][1]

    points, note = fused(history)
    assert points == [(row["epoch"] + 1, row["validation/fused"]) for row in history]
    assert "of the fused answer alone" in note
    points, note = fused(rows())
    assert points == [(row["epoch"] + 1, row["validation/total"]) for row in rows()]
    assert "whole loss" in note


def test_numbers_that_are_not_there_are_skipped() -> None:
    history = rows()
    history[2] = history[2] | {"validation/unimodal/audio/war": None, "validation/time/1": None, "validation/war": None}
    history[3] = history[3] | {"validation/ratio/audio": math.nan, "validation/ratio/visual": 0.0}
    found = drawn(history, [*answers(), {"weights": {"time": [0.0, 0.0]}}, {"weights": {}}, {"weights": None}])
    assert len(found) == 3
    assert not any("nan" in drawing.lower() for drawing in found.values())


def test_the_bars_are_the_mean_over_what_was_answered() -> None:
    short, long_, silent = ({"weights": {"time": weights}} for weights in ([1.0], [0.5, 0.5], [0.0, 0.0]))
    table = report_balance._weights_of_samples([short, silent, long_])
    assert table is not None
    assert np.array_equal(table, [[1.0, 0.0], [0.5, 0.5]])


def test_the_map_keeps_the_order_of_steps_and_epochs() -> None:
    history = [{"epoch": i, **{f"validation/time/{step}": float(step == i) for step in range(12)}} for i in range(12)]
    weights, epochs = report_balance._weights_by_epoch(history)
    assert weights is not None
    assert np.array_equal(weights, np.eye(12))
    assert epochs == list(range(1, 13))


def test_a_long_training_of_long_sequences_stays_small() -> None:
    history = [{"epoch": i, **{f"validation/time/{step}": 1 / 90 for step in range(90)}} for i in range(100)]
    drawing = drawn(history, [])[TIME]
    assert drawing.count("<path") < 2 * STEPS * report_balance.EPOCHS
    assert len(drawing) < 600_000


def test_names_cannot_become_markup_or_mathematics() -> None:
    found = drawn(rows(("<b>$x_</b>", "a/b")), [])
    for title in (ALONE, SHARE):
        assert "<b>" not in found[title]
        assert "a/b" in texts(found[title])


@pytest.mark.parametrize("scale", ["plain", "ratio", "share"])
@pytest.mark.parametrize("values", [[2.5, 0.3], [0.9, 0.9], [130.0, 0.004], [0.0, 0.0]])
def test_no_value_lies_outside_its_axis(scale: str, values: list[float]) -> None:
    shown = [min(value, 1.0) for value in values] if scale == "share" else values
    _, (axis,) = report_plots.canvas(2.0)
    curve = report_balance.Curve("audio", [(1, shown[0]), (2, shown[1])], report_plots.BLUE)
    report_balance._draw(axis, report_balance.Panel("label", [curve], scale))
    low, high = axis.get_ylim()
    # A logarithmic axis has no place for 0.
    assert all(low <= value <= high for value in shown if value > 0 or scale != "ratio")
    assert len(axis.get_yticks()) >= 2
    if scale == "ratio":
        assert low * high == pytest.approx(1)


def test_more_modalities_than_colours_differ_by_their_dashes() -> None:
    names = tuple(f"sensor{number}" for number in range(6))
    drawing = drawn(rows(names), [])[ALONE]
    assert set(names) <= set(texts(drawing))
    curves = report_balance._curves(rows(names), {name: f"train/k/{name}" for name in names})
    assert len({(curve.colour, str(curve.dash)) for curve in curves}) == 6


@settings(max_examples=30)
@given(st.text(min_size=1).filter(lambda name: name.strip("/")), st.sampled_from(["", "/war", "/loss"]))
def test_a_name_is_found_again_between_start_and_end(name: str, end: str) -> None:
    history = [{f"validation/unimodal/{name}{end}": 1.0, "validation/unimodal/": 1.0, "epoch": 0}]
    assert name in report_balance._between(history, "validation/unimodal/", end)
    assert "" not in report_balance._between(history, "validation/unimodal/", end)


def test_the_report_shows_balance_where_the_run_has_it_and_only_there(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers()))
    page = report.write_report(tmp_path).read_text()
    for title in (ALONE, SHARE, TIME):
        assert f"<h2>{title}</h2>" in page
    assert "Contribution ratio" in page
    assert not [colour for colour in report_plots.THEME if colour in page]
    plain = [{key: value for key, value in row.items() if key.count("/") == 1} for row in rows()]
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in plain))
    (tmp_path / "predictions.jsonl").unlink()
    page = report.write_report(tmp_path).read_text()
    assert not [title for title in (ALONE, SHARE, TIME) if title in page]
    assert "<h2>Training</h2>" in page
