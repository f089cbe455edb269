"""Text encoders of transformers: offline, from a folder, with masks, and with one-line errors."""

from pathlib import Path

import pytest
import torch

from affuse.parts.text import TextEncoder
from affuse.types import AffuseError

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT as transformers saves it."""
    path = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=12,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(path)
    return path


def test_tokens_become_vectors_that_no_padding_changes(folder: Path) -> None:
    encoder = TextEncoder(str(folder)).eval()
    tokens = torch.tensor([[2, 5, 3, 0, 0], [2, 7, 8, 9, 3]])
    mask = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    together = encoder(tokens, mask)
    assert together.shape == (2, 5, encoder.width)
    assert torch.allclose(together[:1, :3], encoder(tokens[:1, :3], mask[:1, :3]), atol=1e-6)
    filled = tokens.masked_fill(~mask, torch.iinfo(torch.int64).min)  # what absence is filled with is never looked up
    assert torch.equal(encoder(filled, mask), together)
    assert encoder(tokens[:0], mask[:0]).shape == (0, 5, 8)


def test_pretrained_weights_are_those_of_the_folder_and_others_are_random(folder: Path) -> None:
    saved = transformers.BertModel.from_pretrained(folder).embeddings.word_embeddings.weight
    taken = TextEncoder(str(folder)).model.embeddings.word_embeddings.weight
    random = TextEncoder(str(folder), pretrained=False).model.embeddings.word_embeddings.weight
    assert torch.equal(saved, taken)
    assert random.shape == saved.shape
    assert not torch.equal(saved, random)


def test_every_parameter_learns_or_none(folder: Path) -> None:
    tokens, mask = torch.tensor([[2, 5, 3]]), torch.ones(1, 3, dtype=torch.bool)
    learning = TextEncoder(str(folder))
    learning(tokens, mask).square().sum().backward()
    assert all(p.grad is not None for p in learning.parameters())
    frozen = TextEncoder(str(folder), finetune=False).train()
    assert torch.equal(frozen(tokens, mask), frozen(tokens, mask))  # without dropout
    assert not frozen(tokens, mask).requires_grad


def test_ids_outside_of_the_vocabulary_and_too_long_a_text_are_refused(folder: Path) -> None:
    encoder = TextEncoder(str(folder), pretrained=False)
    with pytest.raises(AffuseError, match="0 to 29"):
        encoder(torch.tensor([[30]]), torch.ones(1, 1, dtype=torch.bool))
    with pytest.raises(AffuseError, match="12 positions"):
        encoder(torch.ones(1, 13, dtype=torch.int64), torch.ones(1, 13, dtype=torch.bool))


def test_a_folder_without_a_model_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(AffuseError, match=r"text_encoder .*config\.json") as raised:
        TextEncoder(str(tmp_path))
    assert "\n" not in str(raised.value)


def test_pickled_weights_are_not_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    torch.save(TextEncoder(str(folder)).model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(AffuseError, match="text_encoder"):
        TextEncoder(str(tmp_path))


def test_a_torchaudio_that_does_not_fit_is_named_with_its_remedy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError("Could not load this library: site-packages/torchaudio/lib/_torchaudio.abi3.so")

    monkeypatch.setattr(transformers.AutoModel, "from_config", fails)
    with pytest.raises(AffuseError, match="torchaudio does not fit this torch: pip uninstall torchaudio"):
        TextEncoder(str(folder), pretrained=False)
