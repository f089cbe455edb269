"""Small runs that read faces, and frames with and without one, for the tests of the verbs."""

from pathlib import Path

import numpy as np
import torch

from affuse import runs
from affuse.face_windows import Seen
from affuse.recipe import load_recipe
from affuse.signals.face import FaceFrame
from affuse.signals.face_detection import FaceBox
from affuse.systems import SYSTEMS
from affuse.types import Task

CLASSES = ("Happy", "Sad", "Neutral", "Angry", "Surprise", "Disgust", "Fear")
RECIPE = """
system:
  name: fer_ssm
  encoder: small
  modalities: [face]
  d_model: 32
  d_state: 4
  heads: 2
  classifier: [16]
data:
  name: faces
  input: {frames: 8, size: 48, landmarks: false, pipeline: null}
training: {epochs: 1}
"""


def write_run(path: Path, *overrides: str, recipe: str = RECIPE) -> runs.Run:
    """A run with weights as drawn: what it answers is worth nothing, how it answers is the same."""
    path.mkdir()
    (path / "made.yaml").write_text(recipe)
    read = load_recipe(path / "made.yaml", overrides)
    torch.manual_seed(0)
    system = SYSTEMS[read.system_name](read.system, Task("classification", CLASSES))
    (path / runs.RECIPE).write_text(read.to_yaml())
    runs.write_json(
        path / runs.RUN,
        {"task": {"kind": "classification", "classes": CLASSES}, "status": "complete", "seconds": 0},
    )
    runs.save_weights(system, path / runs.WEIGHTS)
    return runs.load_run(path)


def seen(time_us: int, face: bool = True, shade: int = 90) -> Seen:
    """A frame with a plain grey face, or with none."""
    if not face:
        return Seen(time_us, FaceFrame(None, None, None, None, 0, "no face"))
    image = np.full((48, 48, 3), shade, np.uint8)
    box = FaceBox(10.0, 20.0, 100.0, 100.0)
    return Seen(time_us, FaceFrame(image, None, box, np.array([[0.5, 0, 0], [0, 0.5, 0]]), 1, "ok"))


def at_fps(fps: float, count: int, first_us: int = 0) -> list[int]:
    """Times of frames, microseconds."""
    return [first_us + round(number * 1e6 / fps) for number in range(count)]
