"""Memory that the feature files of MOSI and MOSEI take: loading, one training step of EMOE, and a pass over the samples.

    python benchmarks/feature_memory.py [--files DIR] [--sets mosi/aligned mosei/unaligned ...] [--threads 1]
                                        [--out benchmarks/feature_memory.json]

The files are made by `tests/data/feature_files.py`, exactly in MMSA's format with as many samples as the published ones
(random numbers, audio and video float64): 0.4 and 0.6 GB for MOSI, 4.5 and 13.5 GB for MOSEI (of disk, twice that while one
is made). They are made in DIR where they are not there yet; without --files in a temporary folder that goes with the run.
Each is measured in a process of its own; memory is the peak of that process (VmHWM), with all its imports.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from side_by_side import _high_water_kib, table, write

HERE = Path(__file__).resolve().parent
SETS = ("mosi/aligned", "mosi/unaligned", "mosei/aligned", "mosei/unaligned")
BATCH, SAMPLES = 16, 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "feature_memory.json")
    parser.add_argument("--one", choices=SETS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.files, *arguments.one.split("/"), arguments.threads)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.files or Path(scratch)
        rows = []
        for name in arguments.sets:
            dataset, alignment = name.split("/")
            path = folder / dataset.upper() / "Processed" / f"{alignment}_50.pkl"
            if not path.is_file():
                builder = [sys.executable, str(HERE.parent / "tests" / "data" / "feature_files.py"), str(folder)]
                subprocess.run([*builder, "--dataset", dataset, "--alignment", alignment, "--full"], check=True)
            own = [sys.executable, __file__, "--one", name, "--files", str(folder), "--threads", str(arguments.threads)]
            done = subprocess.run(own, check=True, capture_output=True, text=True)
            rows.append({"set": name, "file_gb": path.stat().st_size / 1e9} | json.loads(done.stdout.splitlines()[-1]))
            if arguments.files is None:
                path.unlink()
    write(arguments.out, rows)
    head = ["set", "file GB", "imports GiB", "loaded GiB", "load s", "one step GiB", f"{SAMPLES} samples GiB"]
    keys = ("file_gb", "imports_gib", "loaded_gib", "load_s", "step_gib", "pass_gib")
    print(table(head, [[row["set"], *(f"{row[key]:.2f}" for key in keys)] for row in rows]))


def measure(folder: Path, dataset: Any, alignment: Any, threads: int) -> dict[str, Any]:
    import torch

    from affuse.data.mmsa import MMSA
    from affuse.systems.emoe import EMOE
    from affuse.types import Batch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    found: dict[str, Any] = {"imports_gib": _high_water_kib() / 2**20}
    start = time.perf_counter()
    splits = MMSA(str(folder), dataset, alignment).splits(0)
    found |= {"load_s": time.perf_counter() - start, "loaded_gib": _high_water_kib() / 2**20}
    order = torch.randperm(len(splits.train)).tolist()
    batch = Batch.collate([splits.train[i] for i in order[:BATCH]])
    system = EMOE(EMOE.Config(widths={name: x.shape[-1] for name, x in batch.inputs.items()}), splits.task)
    optimiser = torch.optim.Adam(system.parameters())
    loss = system.loss(system(batch), batch)["total"]
    loss.backward()
    optimiser.step()
    found |= {"step_gib": _high_water_kib() / 2**20, "loss_is_finite": bool(torch.isfinite(loss))}
    for i in order[:SAMPLES]:
        splits.train[i]
    return found | {"pass_gib": _high_water_kib() / 2**20, "counts": splits.facts["counts"]}


if __name__ == "__main__":
    main()
