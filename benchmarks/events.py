"""Voxel grids of events: ours beside tonic and NumPy, in turns.

    python benchmarks/events.py [--threads 1] [--rounds 7] [--out benchmarks/events.json]

346 x 260 pixels, 5 bins, events sorted by time; uniform over the sensor, or clustered around a moving point. tonic scales
time to the number of bins and by the first and last event, so its grid is another one: what is compared before timing is
our forms with a grid by NumPy's bincount in float64, and tonic's signed sum with theirs. It gets its structured array,
with polarity -1 and 1, which it leaves as it is. int64 times, int16 coordinates, int8 polarity for all.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from side_by_side import ratio, side_by_side, table, write

from affuse.ops.events import native_is_built, voxel_grid

HERE = Path(__file__).parent
WIDTH, HEIGHT, BINS, SPAN_US = 346, 260, 5, 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--events", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--out", type=Path, default=HERE / "events.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    from tonic.functional import to_voxel_grid_numpy

    rows: list[dict] = []
    for count in arguments.events:
        for where in ("uniform", "clustered"):
            events = made(count, where)
            columns = [torch.from_numpy(np.ascontiguousarray(events[name])) for name in "txyp"]
            window = {"bins": BINS, "height": HEIGHT, "width": WIDTH, "t_start_us": 0, "t_stop_us": SPAN_US}
            forms = ["reference", "blocked"] + ["native"] * native_is_built()[0]
            ways = {f"affuse {form}": lambda c=columns, w=window, f=form: voxel_grid(*c, **w, form=f) for form in forms}
            truth = by_numpy(events)
            for name, way in ways.items():
                error = np.abs(way().numpy() - truth).max() / max(np.abs(truth).max(), 1)
                assert error < 1e-5, f"{name}: off by {error}"
            ways["numpy bincount"] = lambda e=events: by_numpy(e)
            ways["tonic"] = lambda e=events: to_voxel_grid_numpy(e, (WIDTH, HEIGHT, 2), BINS)
            lost = events["p"].sum() - ways["tonic"]().sum()
            assert abs(lost) < 2 + 1e-3 * count, "tonic counts other events"
            times = side_by_side(ways, arguments.rounds)
            for name, timing in times.items():
                faster = ratio(times["tonic"], timing)
                rows.append(
                    {
                        "events": count,
                        "where": where,
                        "way": name,
                        "million events a second": count / timing.median / 1e6,
                        "tonic over this": [faster.median, faster.low, faster.high],
                    }
                )
    write(arguments.out, rows)
    cells = [
        [
            f"{r['events']:.0e}",
            r["where"],
            r["way"],
            f"{r['million events a second']:.1f}",
            "{:.2f} ({:.2f} to {:.2f})".format(*r["tonic over this"]),
        ]
        for r in rows
    ]
    print(
        f"threads {arguments.threads}, numpy {np.__version__}; medians over {arguments.rounds} rounds, with quartiles"
    )
    print(table(["events", "where", "way", "million a second", "tonic / this"], cells))


def made(count: int, where: str) -> np.ndarray:
    draw = np.random.default_rng(0)
    events = np.zeros(count, dtype=[("t", np.int64), ("x", np.int16), ("y", np.int16), ("p", np.int8)])
    events["t"] = np.sort(draw.integers(0, SPAN_US, count))
    if where == "uniform":
        events["x"], events["y"] = draw.integers(0, WIDTH, count), draw.integers(0, HEIGHT, count)
    else:
        turn = 2 * np.pi * events["t"] / SPAN_US
        events["x"] = np.clip(WIDTH / 2 + 100 * np.cos(turn) + 8 * draw.standard_normal(count), 0, WIDTH - 1)
        events["y"] = np.clip(HEIGHT / 2 + 80 * np.sin(turn) + 8 * draw.standard_normal(count), 0, HEIGHT - 1)
    events["p"] = draw.integers(0, 2, count) * 2 - 1
    return events


def by_numpy(events: np.ndarray) -> np.ndarray:
    position = events["t"] * ((BINS - 1) / SPAN_US)
    left = position.astype(np.int64)
    index = (left * HEIGHT + events["y"]) * WIDTH + events["x"]
    share = position - left
    size = BINS * HEIGHT * WIDTH
    grid = np.bincount(index, events["p"] * (1 - share), size)
    grid += np.bincount(index + HEIGHT * WIDTH, events["p"] * share, size)
    return grid.reshape(BINS, HEIGHT, WIDTH)


if __name__ == "__main__":
    main()
