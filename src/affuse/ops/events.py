"""Events as images: voxel grid, count image, time surface and accumulated image.

An event is (t, x, y, p): at time t (microseconds) the log intensity of pixel (x, y) rose (p = +1) or fell (p = -1) by
a contrast threshold. Every function takes the events as tensors of length n and gives a float32 image on their device.

Polarity is -1 or +1, or a boolean where False is negative; anything else (0 and 1 as integers above all, which would
lose every negative event without a word) is an error. So are coordinates outside of the sensor: a reader may drop such
events, an op never does. No event at all gives the image of nothing.

Each function has three forms: the reference takes all events at once; the blocked form does the same with a block of events
after the other, which stays in the cache; the native form is one pass in C++, on a CPU. The environment variable
``AFFUSE_EVENTS`` (reference, blocked, native) chooses where the caller leaves it open.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from affuse.ops import native
from affuse.types import AffuseError

Form = Literal["auto", "reference", "blocked", "native"]
FORMS = ("reference", "blocked", "native")
BLOCK = 2**16  # events of a block: their indices and weights stay in a core's second-level cache
_VOXELS, _COUNTS, _AGES = "ppppppiiiiiiiii", "ppppiiiii", "pppppiiiiii"  # arguments of the native functions
_LARGEST = 2**63  # the native functions take integers below it


def active_form() -> tuple[str, str]:
    """The form that events on a CPU become an image by where the caller leaves it open, and why.

    Raises:
        AffuseError: ``AFFUSE_EVENTS`` names no form, or one that is not built.
    """
    chosen = os.environ.get("AFFUSE_EVENTS", "auto")
    if chosen not in ("auto", *FORMS):
        raise AffuseError(f"AFFUSE_EVENTS={chosen!r} is no form of event images: use auto, {', '.join(FORMS)}")
    built, why = native_is_built()
    if chosen == "auto":
        return ("native" if built else "blocked"), why
    if chosen == "native" and not built:
        raise AffuseError(f"AFFUSE_EVENTS=native: {why}")
    return chosen, f"AFFUSE_EVENTS={chosen}"


def native_is_built() -> tuple[bool, str]:
    """Whether the native form can be called, and what was found or is missing."""
    built, why = native.available()
    if built:
        try:
            native.function("affuse_voxels", _VOXELS, "i")
        except AffuseError as error:
            return False, str(error)
    return built, why


def window_bounds(
    t_us: Int[Tensor, " n"], start_us: Int[Tensor, " k"], stop_us: Int[Tensor, " k"]
) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"]]:
    """Where in a sorted stream the events with start <= t < stop stand, for many windows at once: first, and one past last.

    The time it takes grows with the number of windows and the logarithm of the stream, which is not copied; windows that
    follow each other share no event and lose none. A window that stops before it starts is empty.

    Args:
        t_us: times, microseconds, never falling (not looked through).
        start_us, stop_us: the windows, microseconds.
    """
    times, starts, stops = (column.long().contiguous() for column in (t_us, start_us, stop_us))
    first = torch.searchsorted(times, starts)
    return first, torch.maximum(first, torch.searchsorted(times, stops))


def voxel_grid(
    t_us: Int[Tensor, " n"],
    x: Int[Tensor, " n"],
    y: Int[Tensor, " n"],
    p: Int[Tensor, " n"] | Bool[Tensor, " n"],
    *,
    bins: int,
    height: int,
    width: int,
    t_start_us: int,
    t_stop_us: int,
    form: Form = "auto",
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
        form: ``auto`` follows `active_form`; so in the functions below.

    Returns:
        (bins, height, width), float32; summed in float64, or exactly in whole numbers of the window's length.

    Raises:
        AffuseError: an event outside of the window or of the sensor, another polarity, an empty window, or no bin.
    """
    if bins < 1 or t_stop_us <= t_start_us:
        raise AffuseError(
            f"a voxel grid needs at least one bin and stop after start: bins {bins}, [{t_start_us}, {t_stop_us})"
        )
    _check(height, width, {"t_us": t_us, "x": x, "y": y, "p": p})
    form = _chosen(form, t_us)
    if form == "native" and max(abs(t_start_us), abs(t_stop_us)) < _LARGEST:
        times, columns = t_us.long().contiguous(), _columns(x, y, p)
        grid = torch.empty(bins, height, width)
        for whole in (False, True):  # whole: room for all bins at once, as where events are not sorted by time
            sums = torch.empty((2 * max(bins - 1, 1) if whole else 1) * height * width, dtype=torch.int64)
            pointers = (tensor.data_ptr() for tensor in (times, *columns, grid, sums))
            window = bins, height, width, t_start_us, t_stop_us, whole
            done = native.function("affuse_voxels", _VOXELS, "i")(*pointers, *_sizes(columns, p), *window)
            if done == 1:
                return grid
            if done == 0:
                break
    total = torch.zeros(bins * height * width, dtype=torch.float64, device=t_us.device)
    for part in _blocks(len(t_us), form):
        t = t_us[part]
        flat, sign = _flat_and_sign(x[part], y[part], p[part], height, width, images=bins)
        first, last = _range(t, t_start_us)
        if first < t_start_us or last >= t_stop_us:
            raise AffuseError(f"events outside of the window [{t_start_us}, {t_stop_us}) us: slice_time them first")
        # Subtract as integers first: a clock since 1970 in microseconds leaves float32 with a resolution of minutes.
        position = (t.long() - t_start_us).double().mul_(bins - 1).div_(t_stop_us - t_start_us)  # n
        left = position.floor().clamp_(max=max(bins - 2, 0))  # n
        right_share = position.sub_(left).mul_(sign)  # n, signed
        index = left.to(flat.dtype).mul_(height * width).add_(flat).long()
        total.scatter_add_(0, index, sign.sub_(right_share))
        if bins > 1:
            total[height * width :].scatter_add_(0, index, right_share)
    return total.view(bins, height, width).float()


def count_image(
    x: Int[Tensor, " n"],
    y: Int[Tensor, " n"],
    p: Int[Tensor, " n"] | Bool[Tensor, " n"],
    *,
    height: int,
    width: int,
    form: Form = "auto",
) -> Float[Tensor, "2 h w"]:
    """How many events each pixel had: channel 0 counts negative events, channel 1 positive ones.

    Raises:
        AffuseError: an event outside of the sensor, or a polarity other than -1 and +1.
    """
    return _counts(x, y, p, height, width, form).float()


def time_surface(
    t_us: Int[Tensor, " n"],
    x: Int[Tensor, " n"],
    y: Int[Tensor, " n"],
    p: Int[Tensor, " n"] | Bool[Tensor, " n"],
    *,
    height: int,
    width: int,
    t_stop_us: int,
    tau_us: float,
    form: Form = "auto",
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
    _check(height, width, {"t_us": t_us, "x": x, "y": y, "p": p})
    form = _chosen(form, t_us)
    age = torch.empty(2 * height * width, dtype=torch.float64, device=t_us.device)
    fine = False
    if form == "native" and abs(t_stop_us) < _LARGEST:
        times, columns = t_us.long().contiguous(), _columns(x, y, p)
        pointers = (tensor.data_ptr() for tensor in (times, *columns, age))
        call = native.function("affuse_event_ages", _AGES, "i")
        fine = bool(call(*pointers, *_sizes(columns, p), height, width, t_stop_us))
    if not fine:
        age.fill_(torch.inf)
        for part in _blocks(len(t_us), form):
            t = t_us[part]
            flat, sign = _flat_and_sign(x[part], y[part], p[part], height, width, images=2)
            if len(t) and int(t.max()) > t_stop_us:
                raise AffuseError(f"an event at {int(t.max())} us lies after t_stop_us = {t_stop_us}: slice_time first")
            index = (sign > 0).long() * (height * width) + flat
            age.scatter_reduce_(0, index, (t_stop_us - t.long()).double(), "amin")
    return torch.exp(-age / tau_us).view(2, height, width).float()


def accumulated_image(
    t_us: Int[Tensor, " n"],
    x: Int[Tensor, " n"],
    y: Int[Tensor, " n"],
    p: Int[Tensor, " n"] | Bool[Tensor, " n"],
    *,
    height: int,
    width: int,
    contribution: float = 0.25,
    form: Form = "auto",
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
    negative, positive = _counts(x, y, p, height, width, form).double()
    image = (0.5 + contribution * (positive - negative)).clamp(0, 1).float()
    return image.repeat(3, 1, 1)


def _counts(x: Tensor, y: Tensor, p: Tensor, height: int, width: int, form: Form) -> Tensor:
    """Events of each pixel as integers (2, height, width), negative ones before positive ones."""
    _check(height, width, {"x": x, "y": y, "p": p})
    form = _chosen(form, x)
    if form == "native" and len(x) < 2**31:
        counts = torch.empty(2, height, width, dtype=torch.int32)
        columns = _columns(x, y, p)
        pointers = (tensor.data_ptr() for tensor in (*columns, counts))
        if native.function("affuse_count_events", _COUNTS, "i")(*pointers, *_sizes(columns, p), height, width):
            return counts
    total = torch.zeros(2 * height * width, dtype=torch.int64, device=x.device)
    for part in _blocks(len(x), form):
        flat, sign = _flat_and_sign(x[part], y[part], p[part], height, width, images=2)
        index = (sign > 0).long() * (height * width) + flat
        total.scatter_add_(0, index, torch.ones_like(index))
    return total.view(2, height, width)


def _chosen(form: Form, events: Tensor) -> Form:
    on_cpu = events.device.type == "cpu"
    if form == "auto":
        form = active_form()[0]  # type: ignore[assignment]
        return form if on_cpu or form == "reference" else "blocked"
    if form == "native" and not on_cpu:
        raise AffuseError(f"the native event images are for events on a CPU, not on {events.device}: use auto")
    return form


def _blocks(events: int, form: Form) -> list[slice]:
    """All events at once in the reference; elsewhere block after block. (What the native form found fault with is gone
    through like this, for the error's words.)"""
    size = max(events, 1) if form == "reference" else BLOCK
    return [slice(i, i + size) for i in range(0, max(events, 1), size)]


def _columns(x: Tensor, y: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates and polarity as the native functions read them, copied only where they have to be."""
    wide = x.dtype if x.dtype == y.dtype and x.dtype in (torch.int16, torch.int32) else torch.int64
    # A polarity that is wrong stays wrong in fewer bits.
    sign = (
        p.view(torch.int8) if p.dtype == torch.bool else p if p.dtype == torch.int8 else p.clamp(-2, 2).to(torch.int8)
    )
    return x.to(wide).contiguous(), y.to(wide).contiguous(), sign.contiguous()


def _sizes(columns: tuple[Tensor, Tensor, Tensor], p: Tensor) -> tuple[int, int, bool]:
    """Number of events, bytes of a coordinate, and whether polarity is boolean."""
    return len(columns[0]), columns[0].element_size(), p.dtype == torch.bool


def _check(height: int, width: int, columns: Mapping[str, Tensor]) -> None:
    if height < 1 or width < 1:
        raise AffuseError(f"the sensor must have a positive size, got height {height} and width {width}")
    if len({len(column) for column in columns.values()}) > 1:
        named = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
        raise AffuseError(f"events need columns of one length: got {named}")


def _flat_and_sign(x: Tensor, y: Tensor, p: Tensor, height: int, width: int, *, images: int) -> tuple[Tensor, Tensor]:
    """Index of each event's pixel in a flat image, and its polarity as float64 -1 or +1; both checked.

    The index is of the narrowest type that also holds the indices of this many images: that is where the time goes.
    """
    x_range, y_range = _range(x, 0), _range(y, 0)
    if x_range[0] < 0 or y_range[0] < 0 or x_range[1] >= width or y_range[1] >= height:
        raise AffuseError(
            f"events at x in {list(x_range)}, y in {list(y_range)} lie outside of a sensor of width {width} and "
            f"height {height}: give its true size, or crop"
        )
    if p.dtype == torch.bool:
        sign = p.double().mul_(2).sub_(1)
    else:
        sign = p.double()
        if _range(p, 1) not in ((-1, -1), (-1, 1), (1, 1)) or int(p.count_nonzero()) < len(p):
            raise AffuseError("polarity must be -1 or +1, or boolean: map 0 to -1 before")
    narrow = torch.int32 if images * height * width < 2**31 else torch.int64
    return y.to(narrow) * width + x.to(narrow), sign


def _range(column: Tensor, nothing: int) -> tuple[int, int]:
    """Smallest and largest number of a column; twice `nothing` where it has none."""
    if not len(column):
        return nothing, nothing
    low, high = column.aminmax()
    return int(low), int(high)
