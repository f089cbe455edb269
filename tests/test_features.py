"""Raw clips into features: what is there has its own times, what is not is absent with its reason."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from affuse.cli import main
from affuse.features import Extraction, extract
from affuse.types import AffuseError


@pytest.fixture
def clip(real_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(real_data / "faces" / "single_face.mp4", tmp_path / "one.mp4"))


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text encoder with random weights and a handful of words, as a local folder."""
    transformers = pytest.importorskip("transformers", reason="the extra 'text' is not installed")
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "i", "really", "like", "it", "no"]
    (folder / "vocab.txt").write_text("\n".join(words))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    transformers.BertModel(config).save_pretrained(folder, safe_serialization=True)
    return folder


def test_a_real_face_video_gives_sound_and_landmarks_with_times(clip: Path) -> None:
    pytest.importorskip("dlib", reason="the extra 'face' is not installed")
    found = extract(clip, Extraction(fps=5.0))
    assert set(found.sample.inputs) == {"audio", "video"}
    assert found.sample.inputs["video"].shape[1] == 136
    assert 8 <= len(found.sample.inputs["video"]) <= 13
    for name, values in found.sample.inputs.items():
        times = found.sample.times_us[name]
        assert len(times) == len(values) and (times.diff() > 0).all() and times[-1] < 2_600_000
        assert torch.isfinite(values).all()
    assert "transcript" in found.absent["text"]


def test_text_takes_the_times_of_its_cues(clip: Path, tiny_bert: Path) -> None:
    clip.with_suffix(".srt").write_text(
        "1\n00:00:00,500 --> 00:00:01,000\nI really like it\n\n2\n00:00:01,500 --> 00:00:02,000\nno\n"
    )
    found = extract(clip, Extraction(text_encoder=str(tiny_bert), fps=2.0))
    assert found.sample.inputs["text"].shape == (7, 16)
    assert found.sample.times_us["text"].tolist() == [500_000] * 5 + [1_500_000] * 2
    assert found.sample.meta["text"] == "I really like it no"


def test_words_without_an_encoder_are_kept_and_text_is_absent(clip: Path) -> None:
    clip.with_suffix(".txt").write_text("I really like it")
    found = extract(clip, Extraction(fps=2.0))
    assert "text" not in found.sample.inputs and "encoder" in found.absent["text"]
    assert found.sample.meta["text"] == "I really like it"


def test_a_video_without_a_face_has_no_video(real_data: Path) -> None:
    pytest.importorskip("dlib", reason="the extra 'face' is not installed")
    found = extract(real_data / "faces" / "no_face.mp4", Extraction(fps=1.0))
    assert set(found.sample.inputs) == {"audio"}
    assert "no face" in found.absent["video"]


def test_a_face_that_comes_late_has_no_steps_before(real_data: Path) -> None:
    pytest.importorskip("dlib", reason="the extra 'face' is not installed")
    times = extract(real_data / "faces" / "noface_face.mov", Extraction(fps=3.0)).sample.times_us["video"]
    assert times[0] > 500_000


def test_voice_descriptors_of_opensmile(clip: Path) -> None:
    pytest.importorskip("opensmile", reason="the extra 'audio' is not installed")
    found = extract(clip, Extraction(audio="egemaps", fps=1.0))
    assert found.sample.inputs["audio"].shape[1] == 25
    assert found.sample.times_us["audio"][:2].tolist() == [0, 10_000]


def test_what_is_no_clip_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(AffuseError, match="no such file"):
        extract(tmp_path / "gone.mp4")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(AffuseError, match="expected a video"):
        extract(tmp_path / "a.txt")
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    with pytest.raises(AffuseError, match=r"a\.mp4"):
        extract(tmp_path / "a.mp4")


def test_the_verb_writes_a_folder_that_the_data_set_reads(
    clip: Path, real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("dlib", reason="the extra 'face' is not installed")
    quiet = shutil.copy(real_data / "faces" / "no_face.mp4", tmp_path / "two.mp4")
    assert main(["features", str(clip), str(quiet), str(tmp_path / "out"), "--fps", "2"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("one.mp4: audio (") and "no video: no face" in said[1]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [row["id"] for row in manifest["samples"]] == ["one", "two"]
    assert set(manifest["samples"][1]["absent"]) == {"text", "video"}


def test_clips_of_one_name_or_a_broken_one_leave_nothing(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    shutil.copy(clip, tmp_path / "other" / clip.name)
    assert main(["features", str(clip), str(tmp_path / "other" / clip.name), str(tmp_path / "out")]) == 1
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    assert main(["features", str(clip), str(tmp_path / "bad.mp4"), str(tmp_path / "out"), "--fps", "1"]) == 1
    assert not (tmp_path / "out").exists()


def test_a_missing_folder_of_transcripts_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip, out = tmp_path / "one.mp4", tmp_path / "out"
    clip.write_bytes(b"never read")
    assert main(["features", str(clip), str(out), "--transcripts", str(tmp_path / "nope")]) == 1
    assert f"{tmp_path / 'nope'}: no such folder of transcripts" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_at_which_no_face_can_be_searched_is_an_error(fps: float) -> None:
    with pytest.raises(AffuseError, match="fps"):
        Extraction(fps=fps)
