"""Event images against plain loops, and the promises that hold for any events."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affuse import AffuseError
from affuse.ops import events as module
from affuse.ops.events import (
    BLOCK,
    FORMS,
    _check,
    accumulated_image,
    active_form,
    count_image,
    native_is_built,
    time_surface,
    voxel_grid,
    window_bounds,
)

SIZE = {"height": 4, "width": 5}
START, STOP = 1_600_000_000_000_000, 1_600_000_000_033_333
WINDOW = {"t_start_us": START, "t_stop_us": STOP}


@st.composite
def some_events(draw, most=30):
    rows = draw(
        st.lists(
            st.tuples(st.integers(START, STOP - 1), st.integers(0, 4), st.integers(0, 3), st.sampled_from([-1, 1])),
            max_size=most,
        )
    )
    table = torch.tensor(rows, dtype=torch.int64).reshape(-1, 4)
    return tuple(table[:, column] for column in range(4))


def one_event(t=START, x=0, y=0, p=1):
    return tuple(torch.tensor([value]) for value in (t, x, y, p))


def slow_voxel_grid(events, bins):
    grid = torch.zeros(bins, 4, 5, dtype=torch.float64)
    for t, x, y, p in zip(*(column.tolist() for column in events), strict=True):
        position = (t - START) * (bins - 1) / (STOP - START)
        for b in range(bins):
            grid[b, y, x] += p * max(0.0, 1 - abs(b - position))
    return grid


@settings(max_examples=100)
@given(some_events(), st.integers(1, 7))
def test_voxel_grid_agrees_with_a_plain_loop(events, bins):
    grid = voxel_grid(*events, bins=bins, **SIZE, **WINDOW)
    torch.testing.assert_close(grid.double(), slow_voxel_grid(events, bins), rtol=1e-6, atol=1e-6)


@settings(max_examples=60)
@given(some_events(), st.integers(1, 7), st.integers(0, 30))
def test_voxel_grids_of_chunks_add_up_to_the_grid_of_all(events, bins, cut):
    grids = [
        voxel_grid(*(column[part] for column in events), bins=bins, **SIZE, **WINDOW)
        for part in (slice(None), slice(0, cut), slice(cut, None))
    ]
    torch.testing.assert_close(grids[0], grids[1] + grids[2], rtol=1e-6, atol=1e-6)


@settings(max_examples=60)
@given(some_events(), st.integers(1, 7))
def test_flipping_polarity_negates_the_voxel_grid(events, bins):
    t, x, y, p = events
    one, other = (voxel_grid(t, x, y, sign * p, bins=bins, **SIZE, **WINDOW) for sign in (1, -1))
    assert torch.equal(one, -other)


@settings(max_examples=60)
@given(some_events(), st.integers(1, 7))
def test_voxel_grid_keeps_the_signed_sum_of_every_pixel(events, bins):
    _, x, y, p = events
    sums = torch.zeros(4, 5).index_put_((y, x), p.float(), accumulate=True)
    torch.testing.assert_close(voxel_grid(*events, bins=bins, **SIZE, **WINDOW).sum(0), sums, rtol=0, atol=1e-5)


@settings(max_examples=60)
@given(some_events())
def test_boolean_polarity_means_the_same_as_signs(events):
    t, x, y, p = events
    assert torch.equal(
        voxel_grid(t, x, y, p, bins=3, **SIZE, **WINDOW), voxel_grid(t, x, y, p > 0, bins=3, **SIZE, **WINDOW)
    )
    assert torch.equal(count_image(x, y, p, **SIZE), count_image(x, y, p > 0, **SIZE))
    assert torch.equal(accumulated_image(t, x, y, p, **SIZE), accumulated_image(t, x, y, p > 0, **SIZE))


def test_small_integer_types_do_not_overflow():
    p, x = torch.tensor([-1, 1], dtype=torch.int8), torch.tensor([100, 120], dtype=torch.int8)
    counts = count_image(x, x, p, height=127, width=127)
    assert counts[0, 100, 100] == 1
    assert counts[1, 120, 120] == 1


def test_events_at_one_and_the_same_time_all_count():
    events = tuple(column.repeat(5) for column in one_event(t=START + 10_000))
    grid = voxel_grid(*events, bins=4, **SIZE, **WINDOW)
    assert torch.isfinite(grid).all()
    assert grid.sum().item() == pytest.approx(5)


def test_an_empty_slice_gives_the_image_of_nothing():
    nothing = tuple(torch.zeros(0, dtype=torch.int64) for _ in range(4))
    assert torch.equal(voxel_grid(*nothing, bins=3, **SIZE, **WINDOW), torch.zeros(3, 4, 5))
    assert torch.equal(count_image(*nothing[1:], **SIZE), torch.zeros(2, 4, 5))
    assert torch.equal(time_surface(*nothing, **SIZE, t_stop_us=STOP, tau_us=1e4), torch.zeros(2, 4, 5))
    assert torch.equal(accumulated_image(*nothing, **SIZE), torch.full((3, 4, 5), 0.5))


IMAGES = {
    "voxel_grid": lambda t, x, y, p: voxel_grid(t, x, y, p, bins=3, **SIZE, **WINDOW),
    "count_image": lambda t, x, y, p: count_image(x, y, p, **SIZE),
    "time_surface": lambda t, x, y, p: time_surface(t, x, y, p, **SIZE, t_stop_us=STOP, tau_us=1e4),
    "accumulated_image": lambda t, x, y, p: accumulated_image(t, x, y, p, **SIZE),
}


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("wrong", [{"x": -1}, {"x": 5}, {"y": -1}, {"y": 4}])
def test_coordinates_outside_of_the_sensor_are_an_error(image, wrong):
    with pytest.raises(AffuseError, match="outside"):
        image(*one_event(**wrong))


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("polarity", [0, 2])
def test_another_polarity_is_an_error_and_not_silently_nothing(image, polarity):
    with pytest.raises(AffuseError, match="polarity"):
        image(*one_event(p=polarity))


@pytest.mark.parametrize("t", [START - 1, STOP])
def test_events_outside_of_the_window_are_an_error(t):
    with pytest.raises(AffuseError, match="window"):
        voxel_grid(*one_event(t=t), bins=3, **SIZE, **WINDOW)


def test_impossible_settings_are_errors():
    with pytest.raises(AffuseError, match="bin"):
        voxel_grid(*one_event(), bins=0, **SIZE, **WINDOW)
    with pytest.raises(AffuseError, match="stop after start"):
        voxel_grid(*one_event(), bins=3, **SIZE, t_start_us=5, t_stop_us=5)
    with pytest.raises(AffuseError, match="positive"):
        time_surface(*one_event(), **SIZE, t_stop_us=STOP, tau_us=0.0)
    with pytest.raises(AffuseError, match="after t_stop_us"):
        time_surface(*one_event(t=10), **SIZE, t_stop_us=9, tau_us=1.0)
    with pytest.raises(AffuseError, match="size"):
        count_image(*one_event()[1:], height=0, width=5)


@settings(max_examples=60)
@given(some_events())
def test_count_image_and_time_surface_agree_with_plain_loops(events):
    counts, surface = torch.zeros(2, 4, 5), torch.zeros(2, 4, 5)
    for t, x, y, p in sorted(zip(*(column.tolist() for column in events), strict=True)):
        counts[int(p > 0), y, x] += 1
        surface[int(p > 0), y, x] = math.exp(-(STOP - t) / 12_345.0)
    assert torch.equal(count_image(*events[1:], **SIZE), counts)
    torch.testing.assert_close(time_surface(*events, **SIZE, t_stop_us=STOP, tau_us=12_345.0), surface)


@settings(max_examples=60)
@given(some_events())
def test_accumulated_image_is_brighter_where_events_were_positive(events):
    _, x, y, p = events
    image = accumulated_image(*events, **SIZE)
    sums = torch.zeros(4, 5).index_put_((y, x), p.float(), accumulate=True)
    assert image.min() >= 0
    assert image.max() <= 1
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])
    assert torch.equal((image[0] - 0.5).sign(), sums.sign())


# The forms: all equal to the reference, whatever the events.

FAST = [form for form in FORMS if form != "reference"]
KINDS = [torch.int16, torch.int32, torch.int64]


def available(form):
    if form == "native" and not native_is_built()[0]:
        pytest.skip("the native code is not built here")
    return form


@pytest.fixture(params=FAST)
def fast(request):
    return available(request.param)


def many_events(count, *, seed=0, clustered=False, height=60, width=80):
    generator = torch.Generator().manual_seed(seed)
    t = START + torch.randint(0, STOP - START, (count,), generator=generator).sort().values
    if clustered:
        x, y = (
            torch.randn(count, generator=generator).mul(1.5).add(s / 2).long().clamp(0, s - 1) for s in (width, height)
        )
    else:
        x, y = (torch.randint(0, s, (count,), generator=generator) for s in (width, height))
    return t, x, y, torch.randint(0, 2, (count,), generator=generator) * 2 - 1


def all_images(events, form, *, bins=5, height=60, width=80):
    size = {"height": height, "width": width, "form": form}
    return [
        voxel_grid(*events, bins=bins, **size, **WINDOW),
        count_image(*events[1:], **size),
        time_surface(*events, **size, t_stop_us=STOP, tau_us=12_345.0),
        accumulated_image(*events, **size),
    ]


def same_images(ours, theirs):
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(ours[1:], theirs[1:], strict=True))


@pytest.mark.parametrize("bins", [1, 2, 5])
@pytest.mark.parametrize("clustered", [False, True], ids=["uniform", "clustered"])
@pytest.mark.parametrize("count", [0, 1, 1000, 2 * BLOCK + 7])
def test_fast_forms_give_the_images_of_the_reference(fast, count, clustered, bins):
    events = many_events(count, clustered=clustered)
    same_images(all_images(events, fast, bins=bins), all_images(events, "reference", bins=bins))


@pytest.mark.parametrize("bins", [1, 2, 5])
def test_events_in_any_order_give_the_images_of_sorted_ones(fast, bins):
    events = many_events(5000)
    order = torch.randperm(5000, generator=torch.Generator().manual_seed(0))
    same_images(all_images([column[order] for column in events], fast, bins=bins), all_images(events, fast, bins=bins))


@settings(max_examples=60)
@given(some_events(), st.integers(1, 7))
def test_fast_forms_give_the_images_of_the_reference_for_any_events(events, bins):
    for fast in FAST:
        if fast != "native" or native_is_built()[0]:
            size = {"bins": bins, "height": 4, "width": 5}
            same_images(all_images(events, fast, **size), all_images(events, "reference", **size))


@pytest.mark.parametrize("coordinates", KINDS)
@pytest.mark.parametrize("polarity", [torch.int8, torch.int64, torch.bool])
def test_every_type_of_column_gives_the_same_images(fast, coordinates, polarity):
    t, x, y, p = many_events(2000)
    typed = (t, x.to(coordinates), y.to(coordinates), (p > 0) if polarity == torch.bool else p.to(polarity))
    same_images(all_images(typed, fast), all_images((t, x, y, p), "reference"))


def test_columns_of_mixed_types_and_any_strides_give_the_same_images(fast):
    t, x, y, p = many_events(2000)
    table = torch.stack([t, x, y, p], 1)  # its columns are strided
    same_images(all_images(table.unbind(1), fast), all_images((t, x, y, p), "reference"))
    same_images(all_images((t, x.to(torch.int8), y.short(), p.int()), fast), all_images((t, x, y, p), "reference"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"x": -1}, "outside of a sensor"),
        ({"x": 80}, "outside of a sensor"),
        ({"y": -1}, "outside of a sensor"),
        ({"y": 60}, "outside of a sensor"),
        ({"p": 0}, "polarity"),
        ({"p": 257}, "polarity"),
        ({"t": START - 1}, "window"),
        ({"t": STOP}, "window"),
        ({"t": -(2**63)}, "window"),
        ({"t": 2**63 - 1}, "window"),
    ],
)
def test_one_wrong_event_among_many_is_the_same_error_in_every_form(form, wrong, named):
    available(form)
    events = [column.clone() for column in many_events(1000)]
    for name, value in wrong.items():
        events["txyp".index(name)][777] = value
    with pytest.raises(AffuseError, match=named):
        voxel_grid(*events, bins=3, height=60, width=80, form=form, **WINDOW)


@pytest.mark.parametrize("width", ["avx512", "avx2", "plain"])
@pytest.mark.parametrize("coordinates", KINDS)
def test_native_voxel_grids_agree_at_every_vector_width(coordinates, width, monkeypatch):
    available("native")
    monkeypatch.setenv("AFFUSE_VECTORS", width)
    t, x, y, p = many_events(1500)
    events = t, x.to(coordinates), y.to(coordinates), p > 0
    same_images(all_images(events, "native"), all_images(events, "reference"))
    y[1400] = 60
    with pytest.raises(AffuseError, match="outside of a sensor"):
        all_images((t, x.to(coordinates), y.to(coordinates), p), "native")


@pytest.mark.parametrize("span_us", [1, 2, 3, 33_333, 2**29, 2**30, 2**30 + 1, 2**45, 2**61])
def test_voxel_grids_of_any_window_agree(fast, span_us):
    t, x, y, p = many_events(1000)
    t = (torch.linspace(0, 1, 1000, dtype=torch.float64) * (span_us - 1)).long().clamp(max=span_us - 1)
    window = {"bins": 5, "height": 60, "width": 80, "t_start_us": -7, "t_stop_us": span_us - 7}
    ours, truth = (voxel_grid(t - 7, x, y, p, form=form, **window) for form in (fast, "reference"))
    torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sign", [-1, 1])
def test_one_pixel_takes_more_events_than_fit_into_a_sum_of_whole_numbers(fast, sign):
    count, span_us = 150_000, 2**30 - 1  # the native sums hold 65,536 events of such a window
    t = torch.full((count,), span_us - 1)
    x = torch.zeros(count, dtype=torch.int16)
    grid = voxel_grid(t, x, x, x + sign, bins=2, height=1, width=2, t_start_us=0, t_stop_us=span_us, form=fast)
    assert grid[1, 0, 0].item() == pytest.approx(sign * count, rel=1e-6)
    assert abs(grid[0, 0, 0].item()) < 0.01
    assert not grid[:, 0, 1].any()


def test_exact_shares_leave_nothing_where_polarities_cancel():
    available("native")
    t = START + torch.arange(1000) * 33
    x = torch.zeros(2000, dtype=torch.int32)
    p = torch.tensor([1, -1]).repeat(1000)
    assert not voxel_grid(t.repeat_interleave(2), x, x, p, bins=4, **SIZE, **WINDOW, form="native").any()


@settings(max_examples=60)
@given(some_events(), st.lists(st.tuples(st.integers(-10, 40_000), st.integers(-10, 40_000)), max_size=6))
def test_window_bounds_are_those_of_a_plain_filter(events, windows):
    t = events[0].sort().values
    edges = START + torch.tensor(windows, dtype=torch.int64).reshape(-1, 2)
    first, last = window_bounds(t, edges[:, 0], edges[:, 1])
    for k, (start, stop) in enumerate(edges.tolist()):
        assert torch.equal(t[first[k] : last[k]], t[(t >= start) & (t < stop)])


def test_the_environment_chooses_the_form(monkeypatch):
    monkeypatch.delenv("AFFUSE_EVENTS", raising=False)
    assert active_form()[0] == ("native" if native_is_built()[0] else "blocked")
    monkeypatch.setenv("AFFUSE_EVENTS", "reference")
    assert active_form() == ("reference", "AFFUSE_EVENTS=reference")
    monkeypatch.setenv("AFFUSE_EVENTS", "fastest")
    with pytest.raises(AffuseError, match="fastest"):
        count_image(*one_event()[1:], **SIZE)


def test_a_form_that_is_not_built_is_an_error_and_not_another_form(monkeypatch):
    monkeypatch.setattr(module, "native_is_built", lambda: (False, "the native extension is not built"))
    monkeypatch.setenv("AFFUSE_EVENTS", "native")
    with pytest.raises(AffuseError, match="not built"):
        count_image(*one_event()[1:], **SIZE)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("short", ["x", "p"])
def test_columns_of_several_lengths_are_refused(form: str, short: str) -> None:
    available(form)
    columns = {name: torch.ones(5, dtype=torch.int64) for name in ("t_us", "x", "y", "p")}
    columns[short] = columns[short][:1]
    del columns["t_us"]
    # A TypeError where types are checked, as in these tests.
    with pytest.raises((AffuseError, TypeError)):
        count_image(**columns, height=4, width=4, form=form)
    with pytest.raises(AffuseError, match=rf"events need columns of one length: got .*{short} 1"):
        _check(4, 4, columns)
