"""The project's own format of features: safetensors and JSON, nothing that can be run, read a sample at a time.

A folder holds ``features.safetensors``: of each modality one array (steps of all samples, ...), float32 or int64, one sample
after another in the order of the manifest, and ``MODALITY.times_us`` (steps,) int64 where a clock is known; and
``manifest.json``::

    {"format": "affuse features", "version": 1, "name": ..., "synthetic": false,
     "task": {"kind": ..., "classes": [...], "value_range": [low, high] or null, "units": ...} or null,
     "sha256": of features.safetensors,
     "facts": what was known of the source,
     "samples": [{"id": ..., "subject": ..., "split": "train" | "validation" | "test" | null, "target": number or null,
                  "lengths": {MODALITY: steps}, "timed": [MODALITY, ...], "absent": {MODALITY: why}, "meta": {...}}, ...]}

``subject`` is left out where it is unknown. To train on features of one's own clips, write the task, the splits and the targets
into the manifest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from affuse.data.numpy_pickle import LFS_HEAD
from affuse.data.stored_array import StoredArray
from affuse.data.stored_sequences import StoredSample, StoredSequence, sha256_of
from affuse.types import AffuseError, Sample, Task

FORMAT, VERSION = "affuse features", 1
ARRAYS, MANIFEST = "features.safetensors", "manifest.json"
PARTS = ("train", "validation", "test")
_TIMES = ".times_us"
_MAX_MANIFEST_BYTES = 2**30
_MAX_HEADER_BYTES = 2**20
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "I64": np.dtype("<i8")}


def write_features(
    out: str | Path,
    samples: Iterable[tuple[str | None, Sample] | tuple[str | None, Sample, Mapping[str, str]]],
    task: Task | None,
    name: str,
    facts: Mapping[str, Any] | None = None,
    synthetic: bool = False,
) -> Path:
    """Write samples one after another, in the memory of one of them.

    Args:
        out: the folder that is made.
        samples: split (``train``, ``validation``, ``test``, or None where there is none yet) and sample, and where it is known
            why a modality is absent. Their ``meta["id"]`` is needed.
        task: what is predicted; None where nobody has said yet.
        name: what the data is called in a report.
        facts: plain JSON values that a report must state.
        synthetic: whether any of it was made by a simulation.

    Returns:
        `out`.

    Raises:
        AffuseError: `out` holds features already; samples without an id or with one twice, of different shapes or kinds of
            numbers, or with values that JSON has no words for.
    """
    out = Path(out)
    must_be_free(out)
    existed = out.is_dir()
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as files:
        if not existed:
            files.callback(lambda: None if (out / MANIFEST).is_file() else out.rmdir())
        scratch = files.enter_context(tempfile.TemporaryDirectory(prefix=".writing-", dir=out))
        streams: dict[str, _Stream] = {}
        rows = list(_written(samples, streams, Path(scratch), files))
        known = [key for key in streams if not key.endswith(_TIMES)]
        for row in rows:
            # Named one and all, so that a reader of the manifest sees what is lacking.
            row["absent"] = {
                key: row["absent"].get(key, "") for key in (*known, *row["absent"]) if key not in row["lengths"]
            }
        _assemble(Path(scratch) / ARRAYS, streams)
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "name": name,
            "synthetic": synthetic,
            "task": None if task is None else dataclasses.asdict(task),
            "sha256": sha256_of(Path(scratch) / ARRAYS),
            "facts": dict(facts or {}),
            "samples": rows,
        }
        text = _json(manifest, out)
        os.replace(Path(scratch) / ARRAYS, out / ARRAYS)
        (Path(scratch) / MANIFEST).write_text(text, encoding="utf-8")
        os.replace(Path(scratch) / MANIFEST, out / MANIFEST)  # last: a folder with a manifest is whole
    return out


def read_features(root: str | Path) -> tuple[dict[str, Any], list[StoredSample]]:
    """The manifest and the samples, whose arrays stay in the file; ``meta`` has ``id``, ``split`` and what else is known.

    Raises:
        AffuseError: files are missing, damaged, or do not fit together.
    """
    root = Path(root)
    manifest = _manifest(root)
    arrays = _arrays(root / ARRAYS)
    samples = []
    reached = dict.fromkeys(arrays, 0)
    seen: set[str] = set()
    for number, row in enumerate(manifest["samples"]):
        where = f"{root / MANIFEST}, sample {number}"
        name, split, target, lengths, timed = _row(row, where)
        if name in seen:
            raise AffuseError(f"{where}: id {name[:60]!r} is listed twice")
        seen.add(name)
        inputs: dict[str, StoredSequence | Tensor] = {}
        times: dict[str, StoredSequence] = {}
        for key, count in [*lengths.items(), *((f"{key}{_TIMES}", lengths[key]) for key in timed)]:
            if key not in arrays or reached[key] + count > len(arrays[key]):
                raise AffuseError(f"{where}: {key!r} has {count} steps, more than {ARRAYS} holds of it")
            start = reached[key]
            reached[key] += count
            sequence = StoredSequence(arrays[key], start, start + count)
            if key.endswith(_TIMES):
                times[key.removesuffix(_TIMES)] = sequence
            else:
                inputs[key] = sequence
        about = {"id": name, "split": split, **_subject(row.get("subject"), where)}
        samples.append(StoredSample(inputs, target, {**row.get("meta", {}), **about}, times))
    for key, count in reached.items():
        if count != len(arrays[key]):
            raise AffuseError(f"{root / ARRAYS}: {key!r} has {len(arrays[key])} steps, the manifest names {count}")
    return manifest, samples


class _Stream:
    """One array that grows at its end, in a file of its own."""

    def __init__(self, file: IO[bytes], dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        self.file, self.dtype, self.shape, self.steps = file, dtype, shape, 0

    def add(self, tensor: Tensor) -> None:
        self.file.write(np.ascontiguousarray(tensor.numpy()).astype(self.kind, copy=False).tobytes())
        self.steps += len(tensor)

    @property
    def kind(self) -> np.dtype[Any]:
        return _DTYPES["F32" if self.dtype == torch.float32 else "I64"]


def _written(
    samples: Iterable[Any], streams: dict[str, _Stream], scratch: Path, files: contextlib.ExitStack
) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for split, sample, *why in samples:
        name = sample.meta.get("id")
        if not isinstance(name, str) or name in seen:
            raise AffuseError(f"sample {len(seen)} has no id of its own: meta['id'] is {str(name)[:60]!r}")
        if split not in (*PARTS, None):
            raise AffuseError(f"sample {name!r}: a split is one of {list(PARTS)} or None, not {split!r}")
        seen.add(name)
        for key, tensor in sample.inputs.items():
            if key.endswith(_TIMES):
                raise AffuseError(
                    f"sample {name!r}: no modality can be called {key!r}, which is what its times are called"
                )
            _add(streams, scratch, files, key, tensor, name)
        timed = [key for key in sample.times_us if key in sample.inputs]
        for key in timed:
            if len(sample.times_us[key]) != len(sample.inputs[key]):
                raise AffuseError(f"sample {name!r}: {key} has another number of times than of steps")
            _add(streams, scratch, files, key + _TIMES, sample.times_us[key].long(), name)
        about = _subject(sample.meta.get("subject"), f"sample {name!r}")
        rest = {key: value for key, value in sample.meta.items() if key not in ("id", "subject", "split")}
        yield {
            "id": name,
            **about,
            "split": split,
            "target": sample.target,
            "lengths": {key: len(tensor) for key, tensor in sample.inputs.items()},
            "timed": timed,
            "absent": dict(why[0]) if why else {},
            "meta": rest,
        }


def _add(
    streams: dict[str, _Stream], scratch: Path, files: contextlib.ExitStack, key: str, tensor: Tensor, name: str
) -> None:
    tensor = tensor.detach().cpu()
    tensor = tensor.float() if tensor.dtype.is_floating_point else tensor.long()
    if not tensor.ndim or not len(tensor):
        raise AffuseError(f"sample {name!r}: {key} has no steps; what is absent is left out of its inputs")
    if key not in streams:
        file = files.enter_context((scratch / f"{len(streams)}.raw").open("w+b"))
        streams[key] = _Stream(file, tensor.dtype, tuple(tensor.shape[1:]))
    stream = streams[key]
    if (tensor.dtype, tuple(tensor.shape[1:])) != (stream.dtype, stream.shape):
        raise AffuseError(
            f"sample {name!r}: {key} is {tensor.dtype} {tuple(tensor.shape)}, others {stream.dtype} (t, {stream.shape})"
        )
    stream.add(tensor)


def _assemble(path: Path, streams: dict[str, _Stream]) -> None:
    """A safetensors file from the streams: the length of the header, the header, the arrays without gaps."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    order = sorted(
        streams, key=lambda key: (streams[key].dtype != torch.int64, key)
    )  # eight bytes before four: aligned
    end = 0
    for key in order:
        stream = streams[key]
        size = stream.steps * math.prod(stream.shape) * stream.kind.itemsize
        kind = "F32" if stream.dtype == torch.float32 else "I64"
        header[key] = {"dtype": kind, "shape": [stream.steps, *stream.shape], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for key in order:
            with streams[key].file as file:
                file.seek(0)
                shutil.copyfileobj(file, out, 2**22)
            Path(file.name).unlink()  # so that the disk holds the arrays twice for one modality at a time only


def must_be_free(out: Path) -> None:
    taken = [name for name in (ARRAYS, MANIFEST) if (out / name).exists()]
    if taken or (out.exists() and not out.is_dir()):
        raise AffuseError(f"{out}: {'holds ' + ' and '.join(taken) if taken else 'is a file'}; choose another folder")


def _json(manifest: Mapping[str, Any], out: Path) -> str:
    try:
        return json.dumps(manifest, allow_nan=False, ensure_ascii=False, indent=1)
    except (TypeError, ValueError) as error:
        raise AffuseError(f"{out}: a sample's meta or target is no plain JSON value ({str(error)[:80]})") from None


def _manifest(root: Path) -> dict[str, Any]:
    path = root / MANIFEST
    if not root.is_dir():
        raise AffuseError(f"{root}: no such folder; set data.root to a folder that 'affuse data convert' wrote")
    try:
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise AffuseError(f"{path}: {path.stat().st_size} bytes; a manifest has at most {_MAX_MANIFEST_BYTES}")
        text = path.read_bytes()
        if text.startswith(LFS_HEAD):
            raise AffuseError(f"{path}: a Git LFS pointer, not the file: run 'git lfs pull' where it came from")
        manifest = json.loads(text)
    except OSError as error:
        raise AffuseError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise AffuseError(f"{path}: not JSON ({str(error)[:80]}); copy it again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise AffuseError(f"{path}: not a manifest of {FORMAT!r}")
    if manifest.get("version") != VERSION:
        raise AffuseError(f"{path}: version {str(manifest.get('version'))[:20]}, this affuse reads version {VERSION}")
    if not isinstance(manifest.get("samples"), list) or not manifest["samples"]:
        raise AffuseError(f"{path}: lists no samples")
    if not isinstance(manifest.get("facts", {}), dict):
        raise AffuseError(f"{path}: 'facts' is no mapping")
    return manifest


def _arrays(path: Path) -> dict[str, StoredArray]:
    """Where each array lies in a safetensors file, which the library has looked through first."""
    if not path.is_file():
        raise AffuseError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            if file.read(len(LFS_HEAD)) == LFS_HEAD:
                raise AffuseError(f"{path}: a Git LFS pointer, not the file: run 'git lfs pull' where it came from")
            file.seek(0)
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size <= _MAX_HEADER_BYTES else None
        with safe_open(path, "np") as checked:
            names = list(checked.keys())
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise AffuseError(f"{path}: not a readable safetensors file ({str(error)[:80]}); copy it again") from None
    if not isinstance(header, dict):
        raise AffuseError(f"{path}: its header is of {size} bytes; features have at most {_MAX_HEADER_BYTES}")
    arrays = {}
    for name in names:
        entry = header[name]
        if entry["dtype"] not in _DTYPES or not entry["shape"]:
            raise AffuseError(f"{path}: {name!r} is {entry['dtype']} {entry['shape']}, expected steps of F32 or I64")
        arrays[name] = StoredArray(
            path, 8 + size + entry["data_offsets"][0], _DTYPES[entry["dtype"]], tuple(entry["shape"])
        )
    return arrays


def _subject(subject: Any, where: str) -> dict[str, str]:
    """A subject is text or a whole number, which is read as text; empty where there is none."""
    if subject is None:
        return {}
    if isinstance(subject, str) or type(subject) is int:
        return {"subject": str(subject)}
    raise AffuseError(f"{where}: the subject is {str(subject)[:40]!r}, not text, a whole number or null")


def _row(row: Any, where: str) -> tuple[str, str | None, int | float | None, dict[str, int], list[str]]:
    if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not isinstance(row.get("meta", {}), dict):
        raise AffuseError(f"{where}: has no id, or its meta is no mapping")
    split, target = row.get("split"), row.get("target")
    if split not in (*PARTS, None):
        raise AffuseError(f"{where}: a split is one of {list(PARTS)} or null, not {str(split)[:40]!r}")
    if target is not None and (
        isinstance(target, bool) or not isinstance(target, int | float) or not math.isfinite(target)
    ):
        raise AffuseError(f"{where}: the target is {str(target)[:40]!r}, not a number or null")
    lengths, timed = row.get("lengths", {}), row.get("timed", [])
    if not isinstance(lengths, dict) or not all(type(n) is int and 0 < n < 2**40 for n in lengths.values()):
        raise AffuseError(f"{where}: lengths are whole numbers above 0 by modality; what is absent has none")
    if not isinstance(timed, list) or not all(isinstance(key, str) and key in lengths for key in timed):
        raise AffuseError(f"{where}: 'timed' names modalities that the sample does not have")
    return row["id"], split, target, lengths, timed
