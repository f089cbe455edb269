import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from affuse import AffuseError
from affuse.doctor import active_forms, check_see, doctor, has_errors, render

LABELS = ["angry", "happiness"]


def name_of(subject: int, label: str, take: int) -> str:
    return f"{subject}_{subject:03d}_man_24_Master_normal_{label}_3_take{take:03d}"


def write_see(root: Path, subset_of: dict[tuple[int, int], str]) -> dict[str, Any]:
    """SEE's layout with one sequence of three frames for each (subject, take)."""
    image = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    database = {}
    for (subject, take), subset in subset_of.items():
        label = LABELS[take % 2]
        name = name_of(subject, label, take)
        database[name] = {"subset": subset, "annotations": {"label": label, "segment": [0, 3]}}
        for kind in ("event", "frame"):
            folder = root / kind / label / name
            folder.mkdir(parents=True)
            for number in range(3):
                cv2.imwrite(str(folder / f"{number:05d}.jpg"), image)
    document = {"labels": LABELS, "database": database}
    (root / "emotion.json").write_text(json.dumps(document))
    return document


@pytest.fixture
def see(tmp_path: Path) -> Path:
    write_see(tmp_path, {(1, 0): "training", (1, 1): "training", (2, 0): "training", (3, 1): "testing"})
    return tmp_path


def test_installation_is_described_as_plain_json() -> None:
    report = doctor()
    assert json.loads(json.dumps(report)) == report
    assert report["versions"]["torch"] != "not installed" and report["findings"] == []
    assert report["extras"]["events"]["pip"] == "pip install 'affuse[events]'"
    assert report["forms"] == active_forms() and "chunked" in report["forms"]["selective_scan"]
    assert set(report["forms"]) == {
        "selective_scan",
        "selective_scan on an NVIDIA GPU",
        "event images and decoding",
        "spiking neurons",
        "expert dispatch",
    }
    assert not has_errors(report) and "selective_scan" in render(report)


def test_the_form_that_the_user_chose_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFFUSE_SCAN", "reference")
    assert active_forms()["selective_scan"].startswith("reference (AFFUSE_SCAN=reference); chunked, native, triton off")


def test_a_sound_folder_has_counts_and_no_error(see: Path) -> None:
    report = doctor("see", see)
    assert not has_errors(report)
    counts = report["data"]
    assert (counts["annotated"], counts["usable"], counts["frames"], counts["subjects"]) == (4, 4, 12, 3)
    assert counts["by_subset"] == {"training": 3, "testing": 1} and counts["image_files"] == 24
    assert [finding["severity"] for finding in report["findings"]] == ["info"]
    assert "no errors found" in render(report)


def test_subjects_in_both_subsets_are_named(tmp_path: Path) -> None:
    write_see(tmp_path, {(1, 0): "training", (1, 1): "testing", (2, 0): "training", (3, 1): "testing"})
    [finding] = check_see(tmp_path)
    assert finding.severity == "warning" and "1 of 3 subjects" in finding.what and finding.what.endswith("001")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n", "Git LFS pointer"),
        (b"GIF89a" + b"\0" * 2000, "no JPEG"),
        (b"\xff\xd8\xff" + b"\1" * 2000, "cut short"),
    ],
)
def test_each_kind_of_bad_image_file_is_an_error_that_names_it(see: Path, content: bytes, words: str) -> None:
    (see / "event" / "angry" / name_of(1, "angry", 0) / "00001.jpg").write_bytes(content)
    report = doctor("see", see)
    assert has_errors(report)
    [error] = [finding for finding in report["findings"] if finding["severity"] == "error"]
    assert words in error["what"] and "event/angry/1_001" in error["what"] and "00001.jpg" in error["what"]
    assert words in render(report)


def test_missing_folders_missing_frames_and_stray_folders_are_found(see: Path) -> None:
    name = name_of(2, "angry", 0)
    (see / "frame" / "angry" / name).rename(see / "frame" / "angry" / "renamed")
    (see / "event" / "angry" / name_of(1, "angry", 0) / "00002.jpg").unlink()
    findings = check_see(see)
    text = {
        finding.severity: " | ".join(f.what for f in findings if f.severity == finding.severity) for finding in findings
    }
    assert f"1 of 4 sequences cannot be used: {name} (no folder frame/angry/{name})" in text["error"]
    assert "1 annotated frames do not exist" in text["warning"] and "for one camera only" in text["warning"]
    assert "frame/angry/renamed" in text["warning"]


def test_a_label_that_differs_from_the_name_is_a_warning(see: Path) -> None:
    document = json.loads((see / "emotion.json").read_text())
    name = name_of(2, "angry", 0)
    document["database"][name]["annotations"]["label"] = "happiness"
    (see / "emotion.json").write_text(json.dumps(document))
    for kind in ("event", "frame"):
        (see / kind / "angry" / name).rename(see / kind / "happiness" / name)
    assert any(f.severity == "warning" and "another label" in f.what and name in f.what for f in check_see(see))


def test_a_folder_that_is_not_the_data_set_is_an_error_finding(tmp_path: Path) -> None:
    for data in ("see", "nmnist"):
        assert has_errors(doctor(data, tmp_path))
        assert has_errors(doctor(data, tmp_path / "nothing"))


def test_a_wrong_question_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(AffuseError, match="nothing on disk"):
        doctor("eyes", tmp_path)
    with pytest.raises(AffuseError, match="--root"):
        doctor("see")
    with pytest.raises(AffuseError, match="nonsense"):
        doctor("nonsense", tmp_path)


def test_real_recordings_of_nmnist_are_whole(real_data: Path) -> None:
    report = doctor("nmnist", real_data / "nmnist")
    assert not has_errors(report) and report["data"]["usable"] == 1000
