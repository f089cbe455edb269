"""What every expert gives: a class token, and tokens that know their place in space and time."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Tokens(NamedTuple):
    """What an expert makes of its clips.

    Args:
        class_token: (r, d).
        tokens: (r, n, d), n = t y x: time first, then the rows and columns of the grid.
        valid: (r, n) those that come of frames that are there; what stands at the others is finite and means nothing.
        grid: t, y and x.
        attention: (r, n) how the class token attended to the valid tokens, rows sum to 1; None where the expert does not tell.
    """

    class_token: Tensor
    tokens: Tensor
    valid: Tensor
    grid: tuple[int, int, int]
    attention: Tensor | None = None
