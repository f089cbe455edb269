"""What the pictures and tables say of each class and frame."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from affuse.report_faces import Strip, Timeline, draw_strip, draw_timeline, per_class_table


def test_the_table_of_classes_counts_as_the_definitions_do() -> None:
    # Rows: truth; columns: answers, the last one no answer.
    confusion = [[6, 2, 0, 2], [1, 3, 0, 0], [0, 5, 0, 0]]
    table = per_class_table({"confusion": confusion}, ["a", "b", "c"])
    assert table is not None and table["rows"] == [
        ["a", "85.7 %", "60.0 %", "70.6 %", "10"],
        ["b", "30.0 %", "75.0 %", "42.9 %", "4"],
        ["c", "none", "0.0 %", "0.0 %", "5"],
    ]
    assert per_class_table({}, ["a"]) is None
    told = per_class_table({"confusion": confusion}, ["a", "b", "c"], {"a": 70, "b": 9, "c": 1})
    assert told is not None and told["columns"][-1] == "in training"
    assert [row[:-1] for row in told["rows"]] == table["rows"] and [row[-1] for row in told["rows"]] == ["70", "9", "1"]


def strip(t: int, heat: bool = True) -> Strip:
    images = np.full((t, 20, 20, 3), 120, np.uint8)
    warm = np.zeros((t, 8, 8), np.float32)
    warm[1] = 1
    valid = np.arange(t) != 2
    return Strip("Happy 70 %", "made", np.arange(t) * 40_000, images, valid, warm if heat else None, [["a"]] * t)


def test_a_strip_warms_the_frame_that_has_the_heat_and_shows_no_face_where_there_is_none() -> None:
    sheet = draw_strip(strip(5)).astype(int)
    with_heat, plain = (sheet[62 + 136 + 20 : 62 + 2 * 136 - 20, 6 + i * 142 + 10 : 6 + i * 142 + 126] for i in (1, 0))
    assert with_heat.std((0, 1)).max() == plain.std((0, 1)).max() == 0 and abs(with_heat - plain).max() > 50
    lost = sheet[62 + 136 :, 6 + 2 * 142 + 10 : 6 + 2 * 142 + 126][:100]
    assert lost.mean() < 40  # the paper's colour, no picture
    assert draw_strip(strip(5, heat=False)).shape[0] == sheet.shape[0] - 136


@pytest.mark.parametrize("units", [False, True])
def test_a_timeline_draws_names_as_they_stand_and_unknown_moments(tmp_path: Path, units: bool) -> None:
    times = np.arange(4) * 500_000
    shares = np.array([[0.2, 0.8], [0.5, 0.5], [np.nan, np.nan], [0.9, 0.1]])
    intensities = np.array([[0.5, np.nan], [0.7, np.nan], [np.nan, np.nan], [0.1, np.nan]]) if units else None
    line = Timeline(("$a_{", "_b"), times, shares, ("AU12", "AU6"), times, intensities, [(0, 100_000)])
    picture = cv2.imread(str(draw_timeline(tmp_path / "line.png", line)))
    assert picture.shape[0] > (600 if units else 300) and picture.std() > 10
