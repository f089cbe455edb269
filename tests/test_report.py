"""The report is one file that needs nothing else, says what it stands on, and survives what is missing."""

import functools
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from affuse import AffuseError, Task, metrics, report, report_plots

CLASSES = ["happiness", "sadness", "anger", "disgust", "surprise", "fear", "neutral"]
TASK = Task("classification", tuple(CLASSES))
LIGHTS = ["Normal", "Overexposure", "Low", "HDR"]


def predictions(seed: int = 0) -> list[dict]:
    generator = np.random.default_rng(seed)
    records = []
    for i in range(240):
        light = LIGHTS[i % 4]
        target = int(generator.integers(7))
        logits = generator.normal(size=7)
        logits[target] += 4 if light in ("Normal", "HDR") else 2.5
        probabilities = np.exp(logits) / np.exp(logits).sum()
        kept = {"Normal": 0.95, "Overexposure": 0.4, "Low": 0.25, "HDR": 0.7}[light] + generator.normal() * 0.05
        event = float(np.clip(0.8 - 0.5 * kept + generator.normal() * 0.1, 0.02, 0.98))
        experts = generator.dirichlet([1, 1, 1])
        experts[experts.argmin()] = 0
        answered = i % 60 != 7
        records.append(
            {
                "split": "test",
                "id": f"clip{i}",
                "crop": 0,
                "subject": f"subject{i % 12}",
                "condition": light,
                "target": target,
                "prediction": int(probabilities.argmax()) if answered else None,
                "probabilities": probabilities.tolist() if answered else None,
                "answered": answered,
                "weights": {"modality": [1 - event, event], "expert": (experts / experts.sum()).tolist()},
                "truth": {"rgb_kept": kept},
            }
        )
    return records


@functools.cache
def summarised() -> dict:
    return metrics.summarise(predictions(), TASK, ["rgb", "event"])


def eye(light: str, open_: float, size: int = 64) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    white = (x**2 + (y / (0.5 * open_ + 0.05)) ** 2 < 0.7).float()
    iris = (x**2 + y**2 < 0.09).float() * white
    skin = torch.tensor([0.8, 0.6, 0.5])[:, None, None]
    picture = skin * (1 - white) + 0.95 * white * (1 - iris) + torch.tensor([0.2, 0.3, 0.5])[:, None, None] * iris
    picture = {"Normal": picture, "Overexposure": picture * 2.2, "Low": picture * 0.12, "HDR": picture * (1.2 + x)}[
        light
    ]
    return (picture.clamp(0, 1) - 0.5) / 0.25


def write_run(path: Path) -> Path:
    path.mkdir()
    facts = {
        "name": "synthetic eyes",
        "split": "subjects disjoint",
        "counts": {"train": 1400, "validation": 200, "test": 240},
        "subjects_shared": 0,
    }
    info = {
        "system": "mco_e",
        "modalities": ["rgb", "event"],
        "task": {"kind": "classification", "classes": CLASSES},
        "synthetic": True,
        "facts": facts,
        "seed": 0,
        "status": "complete",
        "seconds": 132.4,
        "parameters": 812345,
        "environment": {"python": "3.12.1", "machine": "x86_64", "threads": 2, "packages": {"torch": "2.6"}},
        "forms": {"selective_scan": "pure PyTorch, chunked"},
    }
    (path / "run.json").write_text(json.dumps(info))
    (path / "recipe.yaml").write_text("system:\n  name: mco_e\ntraining:\n  epochs: 20\n")
    summary = summarised() | {"synthetic": True}
    (path / "metrics.json").write_text(json.dumps(summary))
    rows = [
        {
            "epoch": i,
            "train/total": 2 * 0.9**i + 0.1,
            "validation/total": 2 * 0.92**i + 0.25,
            "validation/war": 0.85 - 0.7 * 0.85**i,
            "validation/uar": 0.83 - 0.7 * 0.85**i,
        }
        for i in range(20)
    ]
    (path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tensors, examples = {}, []
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    for i, light in enumerate(LIGHTS):
        clip = torch.stack([eye(light, 1 - 0.25 * k) for k in range(5)])
        change = clip[1:] - clip[:-1]
        tensors[f"{i}/rgb/input"], tensors[f"{i}/event/input"] = clip[1:].half(), change.half()
        heat = torch.exp(-4 * ((x - 0.3) ** 2 + y**2))
        for name, scale in (("rgb", 1.0), ("event", 0.8)):
            tensors[f"{i}/{name}/heat"] = torch.stack([heat * scale * (k + 1) / 4 for k in range(4)]).half()
        answer = None if light == "HDR" else i
        weights = {"rgb": 0.7 - 0.2 * i, "event": 0.3 + 0.2 * i}
        examples.append({"id": f"clip{i}", "condition": light, "target": 0, "prediction": answer, "weights": weights})
    save_file(tensors, path / "examples.safetensors", metadata={"examples": json.dumps(examples)})
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    out = report.write_report(run)
    assert out == run / "report.html"
    return out.read_text()


VOID = {"meta", "img", "br", "link"}


class Nesting(HTMLParser):
    """Fails on a tag that is closed out of order; keeps ids and what would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.fetched += [values[key] or "" for key in ("src", "href", "xlink:href") if key in values]
        assert tag not in ("script", "iframe", "object", "embed")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parse(page: str) -> Nesting:
    parser = Nesting()
    parser.feed(page)
    assert parser.open == []
    return parser


def test_report_is_one_file_that_fetches_nothing(page: str) -> None:
    found = parse(page)
    assert len(found.fetched) >= 8
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in found.fetched)
    assert "@import" not in page and "url(http" not in page
    assert len(set(found.ids)) == len(found.ids)
    assert {link[1:] for link in found.fetched if link.startswith("#")} <= set(found.ids)
    assert len(page) < 3_000_000


def test_report_says_that_a_synthetic_world_is_synthetic(run: Path, page: str, tmp_path: Path) -> None:
    assert "Synthetic world." in page
    real = write_run(tmp_path / "real")
    for name in ("run.json", "metrics.json"):
        value = json.loads((real / name).read_text())
        (real / name).write_text(json.dumps(value | {"synthetic": False}))
    assert "Synthetic world." not in report.write_report(real).read_text()


def test_report_holds_every_part(run: Path, page: str) -> None:
    summary = json.loads((run / "metrics.json").read_text())
    for key in ("war", "uar"):
        assert f"{100 * summary[key]['value']:.1f} %" in page
        assert f"{100 * summary[key]['low']:.1f} to {100 * summary[key]['high']:.1f}" in page
    for part in (
        "Recall of each class",
        "Accuracy (WAR) in each condition",
        "Confusion",
        "Reliability",
        "Which sensor it believed",
    ):
        assert part in page
    for part in (
        "Which experts worked",
        "Training",
        "Where it looked",
        "subjects disjoint",
        "affuse fit",
        "selective_scan",
    ):
        assert part in page
    assert page.count("data:image/png") == 8
    assert page.count("not answered") >= 1
    for light in LIGHTS:
        assert light in page


def test_a_classification_shows_macro_scores_and_the_plane_of_its_features(tmp_path: Path, page: str) -> None:
    assert "Macro F1" in page and "mean F1 over the classes present" in page
    assert "Features in the plane" not in page
    run = write_run(tmp_path / "run")
    records = predictions()
    (run / "predictions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 5, generator=generator) + 4 * torch.tensor([[r["target"]] for r in records[:40]])
    save_file({"features": features, "row": torch.arange(40)}, run / "features.safetensors")
    more = report.write_report(run).read_text()
    parse(more)
    assert "Features in the plane" in more and "by true class" in more
    assert "Answer beside truth" not in more and "Weight beside importance" not in more
    assert not [colour for colour in report_plots.THEME if colour in more]


def test_plots_follow_the_colours_of_the_page(page: str) -> None:
    assert "fill: var(--blue)" in page
    assert not [colour for colour in report_plots.THEME if colour in page]


@pytest.mark.parametrize(
    "missing", ["run.json", "recipe.yaml", "metrics.json", "history.jsonl", "examples.safetensors"]
)
def test_a_missing_piece_is_left_out(tmp_path: Path, page: str, missing: str) -> None:
    run = write_run(tmp_path / "run")
    (run / missing).unlink()
    less = report.write_report(run).read_text()
    parse(less)
    assert len(less) < len(page)


def test_an_empty_folder_gives_a_report_that_says_so(tmp_path: Path) -> None:
    page = report.write_report(tmp_path).read_text()
    assert "no metrics and no training history yet" in page


def test_metrics_of_nothing_give_a_report(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps(metrics.summarise([], TASK, ["rgb", "event"])))
    assert "unknown" in report.write_report(tmp_path).read_text()


@pytest.mark.parametrize(
    "broken",
    ["run.json", "metrics.json", "history.jsonl", "predictions.jsonl", "features.safetensors", "examples.safetensors"],
)
def test_a_broken_piece_is_one_clear_line_and_leaves_the_old_report(tmp_path: Path, broken: str) -> None:
    run = write_run(tmp_path / "run")
    (run / "report.html").write_text("the old one")
    (run / broken).write_bytes(b'{"half": ')
    with pytest.raises(AffuseError, match=broken) as caught:
        report.write_report(run)
    assert "\n" not in str(caught.value)
    assert (run / "report.html").read_text() == "the old one"
    assert not list(run.glob("*.tmp"))


def test_names_cannot_become_markup_or_mathematics(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    hostile = ["<script>alert(1)</script>", "$\\bad$", "a & b", "[red]", "s", "f", "n"]
    info = json.loads((run / "run.json").read_text())
    info["task"]["classes"] = hostile
    info["facts"]["name"] = '"><img src=http://x>'
    (run / "run.json").write_text(json.dumps(info))
    task = Task("classification", tuple(hostile))
    records = [record | {"condition": f"<b>{record['condition']}$_"} for record in predictions()]
    (run / "metrics.json").write_text(json.dumps(metrics.summarise(records, task, ["<rgb>", "$event"])))
    page = report.write_report(run).read_text()
    parse(page)
    assert "<b>Low" not in page and "http://x>" not in page and "&lt;b&gt;Low$_" in page


def test_all_examples_share_one_scale_so_that_dark_stays_dark() -> None:
    dark, bright = np.full((2, 3, 4, 4), -1.8, np.float32), np.full((2, 3, 4, 4), 2, np.float32)
    black = np.full((2, 3, 4, 4), -2, np.float32)
    everyone = [dark, bright, black]
    assert report_plots.pictures(dark, everyone, signed=False).max() < 0.1
    assert report_plots.pictures(bright, everyone, signed=False).min() == 1
    red = report_plots.pictures(bright, everyone, signed=True)[0, 0, 0]
    blue = report_plots.pictures(black, everyone, signed=True)[0, 0, 0]
    assert red[0] > 2 * red[2] and blue[2] > 2 * blue[0]


def test_table_has_war_and_uar_overall_and_by_light() -> None:
    summary = metrics.summarise(predictions(), TASK, ["rgb", "event"]) | {"synthetic": True}
    summary["per_condition"]["[red]"] = summary["per_condition"].pop("Low")
    console = Console(width=120, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
    with console.file:
        console.print(report.report_table(summary))
    text = console.export_text()
    assert "synthetic" in text and "[red]" in text
    rows = {line.split()[1]: line for line in text.splitlines() if line.startswith("│")}
    assert list(rows) == ["all", "Normal", "Overexposure", "HDR", "[red]"]
    assert (
        f"{100 * summary['war']['value']:.1f}" in rows["all"] and f"{100 * summary['uar']['low']:.1f} to" in rows["all"]
    )
    assert f"{100 * summary['per_condition']['HDR']['value']:.1f}" in rows["HDR"]
    assert "rank correlation +0.8" in " ".join(text.split())


def test_the_facts_of_what_was_evaluated_go_before_those_of_the_training(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    summary = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps({**summary, "facts": {"name": "another eye", "split": "by moon"}}))
    page = report.write_report(run).read_text()
    assert "mco_e on another eye" in page and "by moon" in page and "subjects disjoint" not in page


def test_the_command_that_made_the_run_is_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    assert (
        f"affuse fit {run / 'recipe.yaml'}" in report.write_report(run).read_text()
    )  # made from Python: none recorded
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**info, "command": "affuse fit own.yaml --training.lr 1e-3"}))
    page = report.write_report(run).read_text()
    assert f"affuse fit own.yaml --training.lr 1e-3\naffuse evaluate {run}" in page
    assert f"affuse fit {run / 'recipe.yaml'}" not in page
