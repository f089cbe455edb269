"""Real sizes in little memory: MOSI in full here; MOSEI by ``benchmarks/feature_memory.py``, for it takes 13 GB of disk."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "feature_memory.py"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of a process is read from /proc")
def test_mosi_loads_and_trains_a_step_in_under_4_gb(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(SCRIPT),
        "--sets",
        "mosi/aligned",
        "mosi/unaligned",
        "--out",
        str(tmp_path / "out.json"),
    ]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, timeout=280)
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["counts"] for row in rows] == [{"train": 1284, "validation": 229, "test": 686}] * 2
    for row in rows:
        assert row["loss_is_finite"] and row["step_gib"] < 4e9 / 2**30 and row["pass_gib"] < 4e9 / 2**30
        assert row["loaded_gib"] - row["imports_gib"] < 0.1  # of files of 0.36 and 0.55 GB
