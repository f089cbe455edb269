"""Decoding of event files: ours beside expelliarmus, in turns; and the memory that each takes.

    python benchmarks/decoding.py [--data DIR] [--rounds 7] [--megabytes 100] [--out benchmarks/decoding.json]

DIR holds `evt2.raw`, a real recording of Prophesee. It is tiled to 100 MB, its clock moved on from tile to tile, and written
as EVT2, as EVT3 (events of one time, row and polarity that lie within 12 columns as vectors, as the sensor would) and as DAT.
Ours and theirs must give the same events before anything is timed. The exception are EVT3's times: expelliarmus counts a step
of the upper time bits twice, so its times are not compared there; ours are those of the recording. `read` gives all events at
once (ours looks whether they are sound, 17 bytes each; theirs has 16), `stream` gives slices of 2**17 events. Memory is how
far one call raises the peak of a process of its own, beside what the columns of all events take.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from expelliarmus import Wizard
from side_by_side import peak_growth_mib, ratio, side_by_side, table, write

from affuse.ops.events import active_form, native_is_built
from affuse.signals.event_codecs import header_end
from affuse.signals.events import read_events, stream_events

HERE = Path(__file__).parent
DATA = Path(os.environ.get("AFFUSE_DATA", HERE / "../../shared/data")) / "events"
CHUNK = 1 << 17
ENCODINGS = {"evt2": ".raw", "evt3": ".raw", "dat": ".dat"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--out", type=Path, default=HERE / "decoding.json")
    parser.add_argument("--peak", nargs=3, metavar=("WAY", "ENCODING", "FILE"), help="print one call's memory, MiB")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        way, encoding, file = arguments.peak
        print(json.dumps(peak_growth_mib(ways_of(encoding, Path(file))[way])))
        return
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        for encoding, suffix in ENCODINGS.items():
            file = Path(folder) / f"{encoding}{suffix}"
            truth = tiled(arguments.data / "evt2.raw", encoding, file, arguments.megabytes * 1_000_000)
            check(encoding, file, truth)
            count = len(truth[0])
            del truth
            ways = ways_of(encoding, file)
            times = side_by_side(ways, arguments.rounds)
            for name, timing in times.items():
                peer = times["expelliarmus stream" if "stream" in name else "expelliarmus read"]
                faster = ratio(peer, timing)
                command = [sys.executable, __file__, "--peak", name, encoding, str(file)]
                peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
                rows.append(
                    {
                        "encoding": encoding,
                        "way": name,
                        "file MB": file.stat().st_size / 1e6,
                        "events": count,
                        "million events a second": count / timing.median / 1e6,
                        "expelliarmus over this": [faster.median, faster.low, faster.high],
                        "peak MiB": json.loads(peak),
                        "columns MiB": count * 17 / 2**20,
                    }
                )
            file.unlink()
    write(arguments.out, rows)
    cells = [
        [
            r["encoding"],
            f"{r['file MB']:.0f}",
            f"{r['events'] / 1e6:.1f}",
            r["way"],
            f"{r['million events a second']:.0f}",
            "{:.2f} ({:.2f} to {:.2f})".format(*r["expelliarmus over this"]),
            f"{r['peak MiB']:.0f}",
            f"{r['columns MiB']:.0f}",
        ]
        for r in rows
    ]
    print(f"one thread; medians over {arguments.rounds} rounds, with quartiles; the form in use is {active_form()[0]}")
    head = [
        "encoding",
        "MB",
        "million events",
        "way",
        "million a second",
        "expelliarmus / this",
        "peak MiB",
        "columns MiB",
    ]
    print(table(head, cells))


def ways_of(encoding: str, file: Path) -> dict:
    """Calls by name; of each form, reading at once and in slices. The slices of theirs are of as many events."""

    def ours(form: str, stream: bool) -> int:
        os.environ["AFFUSE_EVENTS"] = form
        try:
            if stream:
                return sum(len(part) for part in stream_events(file, chunk_events=CHUNK))
            return len(read_events(file))
        finally:
            del os.environ["AFFUSE_EVENTS"]

    def theirs() -> int:
        wizard = Wizard(encoding=encoding, fpath=str(file), chunk_size=CHUNK)
        return sum(len(part) for part in wizard.read_chunk())

    ways = {}
    for form in ["native"] * native_is_built()[0] + ["blocked"]:
        ways[f"affuse {form} read"] = lambda form=form: ours(form, False)
        ways[f"affuse {form} stream"] = lambda form=form: ours(form, True)
    ways["expelliarmus read"] = lambda: len(Wizard(encoding=encoding).read(str(file)))
    ways["expelliarmus stream"] = theirs
    return ways


def check(encoding: str, file: Path, truth: tuple) -> None:
    """Every way gives the events that were written."""
    theirs = Wizard(encoding=encoding).read(str(file))
    assert len(theirs) == len(truth[0]), f"{encoding}: expelliarmus reads other events"
    for name, column in zip("txyp", truth, strict=True):
        if (encoding, name) != ("evt3", "t"):
            assert np.array_equal(theirs[name], column), f"{encoding}: expelliarmus reads another {name}"
    del theirs
    for form in ["native"] * native_is_built()[0] + ["blocked"]:
        os.environ["AFFUSE_EVENTS"] = form
        events = read_events(file)
        columns = events.t_us, events.x, events.y, events.p > 0
        assert all(np.array_equal(ours, true) for ours, true in zip(columns, truth, strict=True)), f"{encoding}, {form}"
        assert sum(len(part) for part in stream_events(file, chunk_events=CHUNK)) == len(events)
    del os.environ["AFFUSE_EVENTS"]


def tiled(recording: Path, encoding: str, file: Path, size: int) -> tuple:
    """Write a file of about this size; t, x, y, p of its events."""
    content = recording.read_bytes()
    start = header_end(content)
    one = read_events(recording)
    t, x, y, p = one.t_us - one.t_us[0] // 4096 * 4096, one.x, one.y, (one.p > 0).astype(np.int64)
    step = (int(t[-1]) // 4096 + 1) * 4096  # so that EVT3's clock begins anew with each tile
    if encoding == "evt2":
        header, words = content[:start], np.frombuffer(content, "<u4", offset=start)
        upper = words >> 28 == 8
        first = int(one.t_us[0]) // 4096 * 4096
    elif encoding == "evt3":
        header, words = b"% evt 3.0\n% geometry 640x480\n% end\n", evt3(t, x, y, p)
        upper, first = words >> 12 == 8, 0
    else:
        header = b"% Version 2\n% Height 480\n% Width 640\n\x0c\x08"
        words = np.stack([t, x | y << 14 | p << 28], axis=1).astype("<u4")
        upper, first = np.zeros(len(words), bool), 0
    tiles = max(1, size // words.nbytes)
    with file.open("wb") as stream:
        stream.write(header)
        for k in range(tiles):
            moved = words.copy()
            if encoding == "evt2":
                moved[upper] += np.uint32(k * step // 64)
            elif encoding == "evt3":
                moved[upper] = 8 << 12 | (words[upper].astype(np.int64) + k * step // 4096 & 0xFFF)
            else:
                moved[:, 0] += np.uint32(k * step)
            stream.write(moved.tobytes())
    times = (t + first + step * np.arange(tiles)[:, None]).ravel()
    return times, np.tile(x, tiles), np.tile(y, tiles), np.tile(p, tiles)


def evt3(t: np.ndarray, x: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Words of EVT3, in order of the events; the upper bits of time are sent for every step of theirs."""
    words: list[int] = []
    high = low = row = -1
    columns = list(zip(t.tolist(), x.tolist(), y.tolist(), p.tolist(), strict=True))
    at = 0
    while at < len(columns):
        time, column, line, sign = columns[at]
        if time >> 12 != high:
            words += [8 << 12 | upper for upper in range(high + 1, (time >> 12) + 1)]
            high, low = time >> 12, -1
        if time & 0xFFF != low:
            low = time & 0xFFF
            words.append(6 << 12 | low)
        if line != row:
            row = line
            words.append(row)
        end, bits = at + 1, 1
        while end < len(columns):
            other = columns[end]
            if (other[0], *other[2:]) != (time, line, sign) or not columns[end - 1][1] < other[1] < column + 12:
                break
            bits |= 1 << other[1] - column
            end += 1
        if end - at > 2:
            words += [3 << 12 | sign << 11 | column, 4 << 12 | bits]
        else:
            end = at + 1
            words.append(2 << 12 | sign << 11 | column)
        at = end
    return np.array(words, "<u2")


if __name__ == "__main__":
    main()
