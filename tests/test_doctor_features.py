"""doctor on folders of features: published or not, whole or not, and who stands in several splits."""

import importlib.util
import json
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from affuse.data import mmsa
from affuse.data.feature_folder import ARRAYS, MANIFEST
from affuse.data.features import convert
from affuse.data.stored_sequences import sha256_of
from affuse.doctor import CHECKS, doctor, has_errors, render


@pytest.fixture(scope="module")
def files() -> ModuleType:
    path = Path(__file__).parent / "data" / "feature_files.py"
    spec = importlib.util.spec_from_file_location("feature_files", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def said(report: dict[str, Any], severity: str) -> str:
    return " | ".join(finding["what"] for finding in report["findings"] if finding["severity"] == severity)


def test_a_file_of_ones_own_is_told_from_the_published_one(
    tmp_path: Path, files: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = files.write_mmsa(tmp_path)
    report = doctor("mmsa", tmp_path)
    assert not has_errors(report) and json.loads(json.dumps(report)) == report
    assert "not a file that MMSA published" in said(report, "warning")
    assert "9/4/6 samples; the published files have 1284/229/686" in said(report, "warning")
    assert "5 of audio" in said(report, "info") and "no subject stands in more than one" in said(report, "info")
    about = report["data"]["MOSI/Processed/aligned_50.pkl"]
    assert about["sha256"] == sha256_of(path) and about["counts"] == {"train": 9, "validation": 4, "test": 6}
    assert "no errors found" in render(report)
    monkeypatch.setitem(mmsa.SHA256, ("mosi", "aligned"), sha256_of(path))
    report = doctor("mmsa", path.parent)
    assert "MOSI aligned as published (all of its SHA-256 is equal)" in said(report, "info")
    assert "not a file" not in said(report, "warning")


def test_all_files_below_a_folder_are_checked(tmp_path: Path, files: ModuleType) -> None:
    for dataset, alignment in (("mosi", "unaligned"), ("mosei", "aligned")):
        files.write_mmsa(tmp_path, dataset, alignment, (3, 1, 2))
    names = {"MOSI/Processed/unaligned_50.pkl", "MOSEI/Processed/aligned_50.pkl"}
    assert names < set(doctor("mmsa", tmp_path)["data"])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[: len(data) // 2], "cut short"),
        (lambda data: b"", "empty"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (lambda data: pickle.dumps({"train": print}), "refused"),
        (lambda data: pickle.dumps({"train": 1}), "no part 'train'"),
    ],
)
def test_a_damaged_file_is_an_error(tmp_path: Path, files: ModuleType, damage: Any, words: str) -> None:
    path = files.write_mmsa(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    report = doctor("mmsa", tmp_path)
    assert has_errors(report) and words in said(report, "error") and str(path) in said(report, "error")


def test_subjects_in_several_splits_and_padding_in_front_are_warnings(tmp_path: Path, files: ModuleType) -> None:
    path = files.write_mmsa(tmp_path)
    document = pickle.loads(path.read_bytes())
    document["test"]["id"][0] = document["train"]["id"][0]
    document["train"]["audio"] = document["train"]["audio"][:, ::-1].copy()
    path.write_bytes(pickle.dumps(document))
    warned = said(doctor("mmsa", tmp_path), "warning")
    assert "1 subjects stand in more than one split: trainVideo0" in warned
    assert "not zero behind the end of the text" in warned


def test_mult_and_mintrec_folders_are_checked(tmp_path: Path, files: ModuleType) -> None:
    files.write_mult(tmp_path / "mult", "unaligned")
    report = doctor("mult_glove", tmp_path / "mult")
    assert not has_errors(report) and "no SHA-256 of this file has been published" in said(report, "info")
    root = files.write_mintrec(tmp_path / "mintrec")
    report = doctor("mintrec", root)
    assert not has_errors(report) and "4/4/4 samples; the published files have 1334/445/445" in said(report, "warning")
    (root / "audio_data" / "audio_feats.pkl").unlink()
    report = doctor("mintrec", root)
    assert has_errors(report) and "audio_feats.pkl: no such file" in said(report, "error")
    assert report["data"]["counts"] == {"train": 4, "validation": 4, "test": 4}


def test_a_folder_of_our_own_that_was_changed_is_an_error(tmp_path: Path, files: ModuleType) -> None:
    files.write_mult(tmp_path / "mult")
    out = convert("mult_glove", tmp_path / "mult", tmp_path / "out")
    report = doctor("features", out)
    assert not has_errors(report) and report["data"]["samples"] == 14
    data = bytearray((out / ARRAYS).read_bytes())
    data[-1] ^= 1
    (out / ARRAYS).write_bytes(bytes(data))
    assert "not as it was written" in said(doctor("features", out), "error")
    manifest = json.loads((out / MANIFEST).read_text())
    (out / MANIFEST).write_text(json.dumps(manifest | {"task": None}))
    assert "names no task" in said(doctor("features", out), "warning")


@pytest.mark.parametrize("name", sorted(set(CHECKS) - {"see", "nmnist"}))
def test_an_empty_and_a_missing_folder_are_errors(tmp_path: Path, name: str) -> None:
    for root in (tmp_path, tmp_path / "none"):
        report = doctor(name, root)
        assert has_errors(report) and str(root) in said(report, "error")


def test_the_real_folders_are_sound(real_data: Path) -> None:
    for name, folder, warnings in (
        ("mosi_utterances", "mosi", 0),
        ("mmmo_youtube", "mmmo_youtube", 0),
        ("mmmo_youtube", "mmmo_youtube/youtube", 0),
    ):
        if not (real_data / folder).is_dir():
            pytest.skip(f"no {folder} beside the other recordings")
        report = doctor(name, real_data / folder)
        assert not has_errors(report)
        assert [f["severity"] for f in report["findings"]].count("warning") == warnings
    assert report["data"]["dataset"] == "youtube"
    assert np.sum(list(report["data"]["counts"].values())) == 48 + 36 + 60
