"""Events as images: voxel grid, count image, time surface and accumulated image.

An event is (t, x, y, p): at time t (microseconds) the log intensity of pixel (x, y) rose (p = +1) or fell (p = -1) by
a contrast threshold. Every function takes the events as tensors of length n and gives a float32 image on their device.

Polarity is -1 or +1, or a boolean where False is negative; anything else (0 and 1 as integers above all, which would
lose every negative event without a word) is an error. So are coordinates outside of the sensor: a reader may drop such
events, an op never does. No event at all gives the image of nothing.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from affuse.types import AffuseError


def voxel_grid(
    t_us: Int[Tensor, "n"],
    x: Int[Tensor, "n"],
    y: Int[Tensor, "n"],
    p: Int[Tensor, "n"] | Bool[Tensor, "n"],
    *,
    bins: int,
    height: int,
    width: int,
    t_start_us: int,
    t_stop_us: int,
) -> Float[Tensor, "bins h w"]:
    """Signed voxel grid, bilinear in time (Zhu et al., CVPR 2019, "Unsupervised Event-based Learning", equation 1-3).

    The fixed window [start, stop) maps to the bins [0, bins - 1]:  t* = (bins - 1) (t - start) / (stop - start),  and
    V(b, y, x) = sum_i p_i max(0, 1 - |b - t*_i|).  The paper stretches the first to the last event instead; with a
    window that does not hang on the events, the grids of two chunks add up to the grid of both, and equal times do not
    divide by zero. The weights of an event sum to its polarity, so the grid sums to the sum of polarities.

    Args:
        t_us: times in [t_start_us, t_stop_us), microseconds, in any order.
        x, y: column in [0, width) and row in [0, height).
        p: -1 or +1, or boolean.
        bins: bins over time; with 1, every event counts in full.

    Returns:
        (bins, height, width), float32; summed in float64.

    Raises:
        AffuseError: an event outside of the window or of the sensor, another polarity, an empty window, or no bin.
    """
    if bins < 1 or t_stop_us <= t_start_us:
        raise AffuseError(
            f"a voxel grid needs at least one bin and stop after start: bins {bins}, [{t_start_us}, {t_stop_us})"
        )
    flat, sign = _flat_and_sign(x, y, p, height, width)
    if len(t_us) and (int(t_us.min()) < t_start_us or int(t_us.max()) >= t_stop_us):
        raise AffuseError(f"events outside of the window [{t_start_us}, {t_stop_us}) us: slice_time them first")
    # Subtract as integers first: a clock since 1970 in microseconds leaves float32 with a resolution of minutes.
    position = (t_us.long() - t_start_us).double() * (bins - 1) / (t_stop_us - t_start_us)  # n
    left = position.floor().long().clamp(max=max(bins - 2, 0))  # n
    share = position - left  # n, of the right bin
    grid = torch.zeros(bins * height * width, dtype=torch.float64, device=t_us.device)
    grid.index_add_(0, left * height * width + flat, sign * (1 - share))
    if bins > 1:
        grid.index_add_(0, (left + 1) * height * width + flat, sign * share)
    return grid.view(bins, height, width).float()


def count_image(
    x: Int[Tensor, "n"],
    y: Int[Tensor, "n"],
    p: Int[Tensor, "n"] | Bool[Tensor, "n"],
    *,
    height: int,
    width: int,
) -> Float[Tensor, "2 h w"]:
    """How many events each pixel had: channel 0 counts negative events, channel 1 positive ones.

    Raises:
        AffuseError: an event outside of the sensor, or a polarity other than -1 and +1.
    """
    flat, sign = _flat_and_sign(x, y, p, height, width)
    index = (sign > 0).long() * height * width + flat
    return torch.bincount(index, minlength=2 * height * width).view(2, height, width).float()


def time_surface(
    t_us: Int[Tensor, "n"],
    x: Int[Tensor, "n"],
    y: Int[Tensor, "n"],
    p: Int[Tensor, "n"] | Bool[Tensor, "n"],
    *,
    height: int,
    width: int,
    t_stop_us: int,
    tau_us: float,
) -> Float[Tensor, "2 h w"]:
    """Exponential time surface: S(p, y, x) = exp(-(stop - t_last) / tau), zero where no event was (HOTS, Lagorce 2017).

    Args:
        t_us: times at or before `t_stop_us`, microseconds, in any order.
        tau_us: decay constant, microseconds.

    Returns:
        (2, height, width) in [0, 1], float32: channel 0 for negative events, channel 1 for positive ones.

    Raises:
        AffuseError: an event after `t_stop_us` or outside of the sensor, another polarity, or tau not positive.
    """
    if tau_us <= 0:
        raise AffuseError(f"tau_us of a time surface must be positive, got {tau_us}")
    flat, sign = _flat_and_sign(x, y, p, height, width)
    if len(t_us) and int(t_us.max()) > t_stop_us:
        raise AffuseError(f"an event at {int(t_us.max())} us lies after t_stop_us = {t_stop_us}: slice_time first")
    index = (sign > 0).long() * height * width + flat
    age = torch.full((2 * height * width,), torch.inf, dtype=torch.float64, device=t_us.device)
    age.scatter_reduce_(0, index, (t_stop_us - t_us.long()).double(), "amin")
    return torch.exp(-age / tau_us).view(2, height, width).float()


def accumulated_image(
    t_us: Int[Tensor, "n"],
    x: Int[Tensor, "n"],
    y: Int[Tensor, "n"],
    p: Int[Tensor, "n"] | Bool[Tensor, "n"],
    *,
    height: int,
    width: int,
    contribution: float = 0.25,
) -> Float[Tensor, "3 h w"]:
    """The accumulated event image, as the SEE data set stores it for windows of about 33 ms.

    Grey 0.5 where nothing happened, brighter by `contribution` for a positive event and darker for a negative one, cut
    to [0, 1], in three equal channels. SEE distributes these images and not its raw events, so the grey level follows
    its images (mean 0.504, standard deviation 0.069) while the step is our reading; normalise with the statistics of
    the images that you train on.

    Args:
        t_us: not read: the order of events does not matter. Here so that all four tensors of events can be passed.
        contribution: grey step of one event.

    Raises:
        AffuseError: an event outside of the sensor, or a polarity other than -1 and +1.
    """
    flat, sign = _flat_and_sign(x, y, p, height, width)
    total = torch.zeros(height * width, dtype=torch.float64, device=x.device).index_add_(0, flat, sign)
    image = (0.5 + contribution * total).clamp(0, 1).float().view(1, height, width)
    return image.repeat(3, 1, 1)


def _flat_and_sign(x: Tensor, y: Tensor, p: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Index of each event's pixel in a flat image, and its polarity as float64 -1 or +1; both checked."""
    if height < 1 or width < 1:
        raise AffuseError(f"the sensor must have a positive size, got height {height} and width {width}")
    if len(x):
        x_range, y_range = (int(x.min()), int(x.max())), (int(y.min()), int(y.max()))
        if x_range[0] < 0 or y_range[0] < 0 or x_range[1] >= width or y_range[1] >= height:
            raise AffuseError(
                f"events at x in {list(x_range)}, y in {list(y_range)} lie outside of a sensor of width {width} and "
                f"height {height}: give its true size, or crop"
            )
    if p.dtype == torch.bool:
        sign = p.double() * 2 - 1
    else:
        sign = p.double()
        if not bool((sign.abs() == 1).all()):
            raise AffuseError("polarity must be -1 or +1, or boolean: map 0 to -1 before")
    return y.long() * width + x.long(), sign
