"""Columns of the history about the fused answer, beside those of the modalities."""

import pytest
import torch

from affuse import Batch, Output, Sample, Task
from affuse.curves import ValidationCurves

TASK = Task("classification", ("one", "two"))


def answered() -> tuple[Output, Batch]:
    batch = Batch.collate([Sample({"a": torch.ones(1, 2)}, 0), Sample({"a": torch.zeros(1, 2)}, 1)])
    return Output(torch.zeros(2, 2), torch.ones(2, dtype=torch.bool)), batch


def test_the_fused_loss_is_the_mean_of_its_term_over_batches() -> None:
    curves = ValidationCurves(TASK)
    output, batch = answered()
    for value in (1.0, 4.0):
        curves.add(output, batch, {"fused": torch.tensor(value), "total": torch.tensor(9.0)})
    assert curves.columns([]) == {"fused": pytest.approx(2.5)}


def test_without_such_a_term_there_is_no_such_column() -> None:
    curves = ValidationCurves(TASK)
    output, batch = answered()
    curves.add(output, batch, {"total": torch.tensor(9.0)})
    curves.add(output, batch)
    assert curves.columns([]) == {}


def test_a_batch_whose_loss_is_no_number_is_left_out() -> None:
    curves = ValidationCurves(TASK)
    output, batch = answered()
    for value in (torch.nan, 3.0):
        curves.add(output, batch, {"fused": torch.tensor(value), "total": torch.tensor(9.0)})
    assert curves.columns([]) == {"fused": pytest.approx(3.0)}
