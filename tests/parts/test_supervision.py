"""Which rows a loss is taken over."""

from dataclasses import replace

import pytest
import torch

from affuse.parts.supervision import known_rows
from affuse.types import AffuseError, Batch, Output, Task


def test_a_negative_number_is_a_value_in_a_regression_and_no_class() -> None:
    present = torch.ones(3, 1, dtype=torch.bool)
    batch = Batch({"text": torch.zeros(3, 1)}, present, target=torch.tensor([-1, 0, 2]))
    values = replace(batch, target=torch.tensor([-1.0, 0.0, 2.0]))
    output = Output(torch.zeros(3, 1), torch.tensor([True, True, False]))
    regression = known_rows(output, values, Task("regression"))
    with pytest.raises(AffuseError, match="give floats"):
        known_rows(output, batch, Task("regression"))
    classification = known_rows(output, batch, Task("classification", ("no", "yes", "more")))
    assert regression.tolist() == [True, True, False]
    assert classification.tolist() == [False, True, False]
