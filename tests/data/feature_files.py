"""Files exactly in the formats of MMSA, MulT and MIntRec, filled with random numbers.

As a command it writes one of any size, for measurements::

    python tests/data/feature_files.py OUT --dataset mosei --alignment unaligned --full

Arrays are then drawn into scratch files beside it and written without a copy (protocol 5), since MOSEI's take 13 GB.
"""

import argparse
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {"mosi": (1284, 229, 686), "mosei": (16326, 1871, 4659)}
STEPS = {
    ("mosi", "aligned"): (50, 50),
    ("mosi", "unaligned"): (375, 500),
    ("mosei", "aligned"): (50, 50),
    ("mosei", "unaligned"): (500, 500),
}
WIDTHS = {"mosi": (5, 20), "mosei": (74, 35)}
PARTS = ("train", "valid", "test")
TEXT_STEPS = 50


def ids_of(part: str, n: int) -> list[str]:
    """Three clips a video; a video stands in one part."""
    return [f"{part}Video{i // 3}$_${i % 3}" for i in range(n)]


def mmsa_part(
    part: str, n: int, dataset: str, alignment: str, dtype: Any, seed: int, scratch: Path | None = None
) -> dict[str, Any]:
    """One part of MMSA's dict. Token ids are 101, words, 102, then 0; audio begins with -inf in every fifth sample."""
    rng = np.random.default_rng(seed)
    (t_audio, t_video), (d_audio, d_video) = STEPS[dataset, alignment], WIDTHS[dataset]
    words = rng.integers(3, TEXT_STEPS + 1, n)
    mask = (np.arange(TEXT_STEPS) < words[:, None]).astype(np.float32)
    tokens = rng.integers(1000, 20000, (n, TEXT_STEPS)).astype(np.float32) * mask
    tokens[:, 0] = 101
    tokens[np.arange(n), words - 1] = 102
    stops = {
        "audio": words if alignment == "aligned" else rng.integers(1, t_audio + 1, n),
        "vision": words if alignment == "aligned" else rng.integers(1, t_video + 1, n),
    }

    def numbers(steps: int, width: int, kind: Any, ends: Any) -> np.ndarray:
        # One sample of noise, scaled and shifted: a whole array of MOSEI's would take minutes to draw.
        noise = rng.standard_normal((steps, width)).astype(kind)
        if scratch is None:
            out = np.empty((n, steps, width), kind)
        else:
            with tempfile.TemporaryFile(dir=scratch) as file:
                out = np.asarray(np.memmap(file, kind, "w+", shape=(n, steps, width)))
        for i in range(n):
            np.multiply(noise, 1 + i / n, out=out[i])
            out[i, ends[i] :] = 0
        return out

    audio = numbers(t_audio, d_audio, dtype, stops["audio"])
    audio[::5, 0, 0] = -np.inf
    values = np.round(rng.uniform(-3, 3, n) * 5) / 5
    held = {
        "raw_text": [f"well sentence {i} says it" for i in range(n)],
        "audio": audio,
        "vision": numbers(t_video, d_video, dtype, stops["vision"]),
        "id": ids_of(part, n),
        "text": numbers(TEXT_STEPS, 768, np.float32, np.full(n, TEXT_STEPS)),
        "text_bert": np.stack([tokens, mask, np.zeros_like(mask)], axis=1),
        "annotations": [("Negative", "Neutral", "Positive")[int(np.sign(v)) + 1] for v in values],
        "classification_labels": np.sign(values) + 1,
        "regression_labels": values.astype(np.float32),
    }
    if alignment == "unaligned":
        held |= {f"{name}_lengths": [int(stop) for stop in stops[name]] for name in ("audio", "vision")}
    return held


def write_mmsa(
    root: Path,
    dataset: str = "mosi",
    alignment: str = "aligned",
    sizes: tuple[int, int, int] = (9, 4, 6),
    dtype: Any = np.float64,
    protocol: int = 4,
    scratch: Path | None = None,
) -> Path:
    """``ROOT/MOSI/Processed/aligned_50.pkl`` and its kin, with real shapes and `sizes` samples."""
    path = root / dataset.upper() / "Processed" / f"{alignment}_50.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        part: mmsa_part(part, n, dataset, alignment, dtype, i, scratch)
        for i, (part, n) in enumerate(zip(PARTS, sizes, strict=True))
    }
    with path.open("wb") as file:
        pickle.dump(document, file, protocol=protocol)
    return path


def write_mult(
    root: Path, alignment: str = "aligned", sizes: tuple[int, int, int] = (7, 3, 4), protocol: int = 2
) -> Path:
    """MulT's ``mosi_data.pkl``: padding before the words, ids as rows of bytes."""
    rng = np.random.default_rng(0)
    t_audio, t_video = STEPS["mosi", alignment]
    document = {}
    for part, n in zip(PARTS, sizes, strict=True):
        arrays = {
            "text": rng.standard_normal((n, 50, 300)).astype(np.float32),
            "audio": rng.standard_normal((n, t_audio, 5)),
            "vision": rng.standard_normal((n, t_video, 20)),
        }
        for i in range(n):
            for array in arrays.values():
                array[i, : 2 + i] = 0
        arrays["audio"][0, 10, 2] = -np.inf
        named = [[f"{part}Video{i // 2}", f"{i}.0", f"{i}.5"] for i in range(n)]
        document[part] = arrays | {"labels": rng.uniform(-3, 3, (n, 1, 1)), "id": np.array(named).astype("S")}
    path = root / ("mosi_data.pkl" if alignment == "aligned" else "mosi_data_noalign.pkl")
    root.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(document, protocol=protocol))
    return path


def write_mintrec(
    root: Path, rows: dict[str, list[tuple[str, str, str, str, str]]] | None = None, protocol: int = 4
) -> Path:
    """MIntRec's folder; by default four clips a part."""
    if rows is None:
        labels = ["Complain", "Ask for help", "Joke", "Greet"]
        rows = {
            part: [(f"S0{s}", "E01", str(i), f"well we are here {i} now", labels[i]) for i in range(4)]
            for s, part in enumerate(("train", "dev", "test"), start=4)
        }
    rng = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    audio: dict[str, Any] = {}
    video: dict[str, Any] = {}
    for part, found in rows.items():
        lines = ["\t".join(("season", "episode", "clip", "text", "label")), *("\t".join(row) for row in found)]
        (root / f"{part}.tsv").write_text("\n".join(lines) + "\n")
        for row in found:
            key = "_".join(row[:3])
            audio[key] = rng.standard_normal((int(rng.integers(20, 60)), 768)).astype(np.float32)
            video[key] = rng.standard_normal((int(rng.integers(10, 40)), 1, 256)).astype(np.float32)
    for folder, name, table in (("audio_data", "audio_feats", audio), ("video_data", "video_feats", video)):
        (root / folder).mkdir(exist_ok=True)
        (root / folder / f"{name}.pkl").write_bytes(pickle.dumps(table, protocol=protocol))
    return root


def write_tokenizer(folder: Path) -> Path:
    """A WordPiece tokenizer of a few words, as bert-base-uncased is laid out."""
    import json

    folder.mkdir(parents=True, exist_ok=True)
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "we",
        "are",
        "here",
        "now",
        "well",
        "##s",
        *"abcdefghijklmnopqrstuvwxyz'.,",
    ]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": len(words)}))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    )
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a file in MMSA's format.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--dataset", choices=SIZES, default="mosi")
    parser.add_argument("--alignment", choices=("aligned", "unaligned"), default="aligned")
    parser.add_argument("--full", action="store_true", help="as many samples as the real file")
    parser.add_argument("--float32", action="store_true", help="audio and video as float32, not float64")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    print(
        write_mmsa(
            chosen.out,
            chosen.dataset,
            chosen.alignment,
            SIZES[chosen.dataset] if chosen.full else (64, 16, 16),
            np.float32 if chosen.float32 else np.float64,
            protocol=5,
            scratch=chosen.out,
        )
    )
