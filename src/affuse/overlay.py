"""Pictures of a clip with what was said of it drawn in: the face's box, the heat on the face, the answer beside it.

Heat maps are of the aligned crop that a system sees; the crop's own transform puts them back on the face in the frame. Video is
written through PyAV at the times of its frames, so that a clip of uneven frame rate plays as it was taken.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib import font_manager
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from affuse.types import AffuseError

HEIGHT = (240, 720)  # of the picture in a video with overlay, pixels
PAPER, INK, QUIET, LINE = (24, 26, 30), (236, 238, 241), (150, 157, 167), (52, 57, 64)
BLUE, ORANGE = (121, 168, 232), (235, 154, 98)


class FrameAnswer(NamedTuple):
    """What is drawn into one frame.

    Args:
        time_us: of the frame; None of a picture, which has no time.
        status: ``ok``, ``no face`` or ``unreadable``.
        said: label with its probability, or a value; empty where nothing is said at this moment.
        probabilities: by class, in order; empty where nothing is said.
        box: left, top, width, height of the face, pixels of the frame.
        heat: (y, x) in [0, 1], over the whole aligned crop; any size.
        matrix: (2, 3), from pixels of the frame to pixels of the crop.
        crop_size: side of the crop that `matrix` leads to.
    """

    time_us: int | None
    status: str = "ok"
    said: str = ""
    probabilities: Sequence[float] = ()
    box: tuple[float, float, float, float] | None = None
    heat: NDArray[np.float32] | None = None
    matrix: NDArray[np.float64] | None = None
    crop_size: int = 0


@dataclass(frozen=True)
class Layout:
    """Where things stand in a picture of a video with overlay: the frame on the left, the answer on the right.

    Args:
        width, height: of the frame as it is shown; even, as video codecs want it.
        panel: width of the answer's part; even.
        scale: pixels shown of a pixel of the frame.
    """

    width: int
    height: int
    panel: int
    scale: float

    @staticmethod
    def of(width: int, height: int) -> Layout:
        """The layout for frames of this size: small ones are enlarged, large ones reduced."""
        if min(width, height) < 1:
            raise AffuseError(f"a frame of {width} x {height} pixels cannot be drawn into")
        scale = min(max(height, HEIGHT[0]), HEIGHT[1]) / height
        scale = min(scale, 2 * HEIGHT[1] / width)
        shown = max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)
        panel = max(200, round(0.62 * shown[1] / 2) * 2)
        return Layout(*shown, panel, scale)


def heat_on_frame(
    heat: Float[np.ndarray, "y x"], matrix: Float[np.ndarray, "2 3"], crop_size: int, width: int, height: int
) -> Float[np.ndarray, "h w"]:
    """A heat map of the aligned crop, back on the frame; 0 outside of the crop.

    Args:
        heat: over the whole crop.
        matrix: from pixels of the frame to pixels of the crop.
        crop_size: side of the crop that `matrix` leads to.
        width, height: of the frame.
    """
    crop = cv2.resize(heat.astype(np.float32), (crop_size, crop_size), interpolation=cv2.INTER_LINEAR)
    # The matrix leads from the picture that is made, the frame, to the one that is read, the crop: hence no inversion.
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    found = cv2.warpAffine(crop, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(found, dtype=np.float32)


def with_heat(image: NDArray[np.uint8], heat: NDArray[np.float32], strength: float = 0.6) -> NDArray[np.uint8]:
    """A picture (h, w, 3) under its heat (h, w) in [0, 1]: it shows through where it is cold."""
    level = np.clip(heat, 0, 1)
    colour = _inferno()[(255 * level).round().astype(np.uint8)].astype(np.float32)  # h w 3
    cover = strength * level[..., None]
    return (image * (1 - cover) + colour * cover).round().astype(np.uint8)


def draw(image: NDArray[np.uint8], answer: FrameAnswer, classes: Sequence[str], layout: Layout) -> NDArray[np.uint8]:
    """One picture of the video with overlay: (layout.height, layout.width + layout.panel, 3), RGB.

    Args:
        image: the frame as it was taken, RGB (h, w, 3).
        answer: what is drawn.
        classes: names, in the order of the probabilities; none of a regression.
        layout: for frames of this size.
    """
    height, width = image.shape[:2]
    if answer.heat is not None and answer.matrix is not None:
        image = with_heat(image, heat_on_frame(answer.heat, answer.matrix, answer.crop_size, width, height))
    way = cv2.INTER_AREA if layout.scale < 1 else cv2.INTER_CUBIC
    shown = np.ascontiguousarray(cv2.resize(image, (layout.width, layout.height), interpolation=way), dtype=np.uint8)
    if answer.box is not None:
        left, top, wide, high = answer.box
        corners = [(left, top), (left + wide, top + high)]
        places = [(round(x * layout.width / width), round(y * layout.height / height)) for x, y in corners]
        cv2.rectangle(shown, places[0], places[1], ORANGE, max(1, layout.height // 200), cv2.LINE_AA)
    return np.concatenate([shown, _panel(answer, classes, layout)], axis=1)


def write_video(path: Path, pictures: Iterable[tuple[int, NDArray[np.uint8]]], fps: float = 30.0) -> int:
    """Write RGB pictures, all of one even size, as an mp4 (H.264) that shows each at its own time.

    Args:
        path: the file; it is written whole or not at all.
        pictures: ``(time_us, image)``; times strictly increase.
        fps: nominal; it sets how long the last picture lasts.

    Returns:
        How many were written. Where there are none there is no file.

    Raises:
        AffuseError: a picture of another size, or a time that does not increase.
    """
    temporary = path.with_name(f"{path.stem}.tmp{path.suffix}")
    written, last, shape = 0, -1, (0, 0)
    container: Any = None
    stream: Any = None
    try:
        for time_us, image in pictures:
            if container is None:
                shape = image.shape[:2]
                container = av.open(str(temporary), "w", format="mp4")
                stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
                stream.width, stream.height, stream.pix_fmt = shape[1], shape[0], "yuv420p"
                stream.time_base = stream.codec_context.time_base = Fraction(1, 1_000_000)
                stream.codec_context.thread_count = 1
                stream.options = {"crf": "23", "preset": "veryfast"}
            if image.shape[:2] != shape:
                raise AffuseError(
                    f"{path}: a picture of {image.shape[1]} x {image.shape[0]} among {shape[1]} x {shape[0]}"
                )
            if time_us <= last:
                raise AffuseError(f"{path}: the picture at {time_us} us does not come after the one at {last} us")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = time_us, Fraction(1, 1_000_000)
            container.mux(stream.encode(frame))
            written, last = written + 1, time_us
        if container is None:
            return 0
        container.mux(stream.encode())
        container.close()
        os.replace(temporary, path)
        return written
    finally:
        if container is not None:
            container.close()
        temporary.unlink(missing_ok=True)


def write_png(path: Path, image: NDArray[np.uint8]) -> Path:
    """Write an RGB picture whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    Image.fromarray(image).save(temporary, format="png")
    os.replace(temporary, path)
    return path


def text_on(
    image: NDArray[np.uint8], place: tuple[int, int], text: str, size: int, colour: tuple[int, ...] = INK
) -> None:
    """Write a line of text into a picture, in place; `place` is its upper left corner."""
    picture = Image.fromarray(image)
    ImageDraw.Draw(picture).text(place, text, fill=colour, font=font(size))
    image[:] = np.asarray(picture)


@functools.lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont:
    """The sans-serif font that comes with matplotlib: it has the letters of most alphabets."""
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)


def _panel(answer: FrameAnswer, classes: Sequence[str], layout: Layout) -> NDArray[np.uint8]:
    """The answer's part of a picture; the drawing of one answer is kept until another one comes."""
    shares = tuple(round(float(share), 3) for share in answer.probabilities)
    missing = "" if answer.status == "ok" else answer.status
    panel = _answer_panel(answer.said, missing, shares, tuple(classes), layout).copy()
    line = layout.height // 24
    if answer.time_us is None:
        return panel
    text_on(panel, (line, layout.height - 2 * line), f"{answer.time_us / 1e6:.2f} s", max(9, line), QUIET)
    return panel


@functools.lru_cache(maxsize=2)
def _answer_panel(
    said: str, missing: str, shares: tuple[float, ...], classes: tuple[str, ...], layout: Layout
) -> NDArray[np.uint8]:
    picture = Image.new("RGB", (layout.panel, layout.height), PAPER)
    pen = ImageDraw.Draw(picture)
    margin, wide = layout.height // 24, layout.panel - 2 * (layout.height // 24)
    pen.text((margin, margin), _fitting(said or missing or "no answer yet", wide, layout.height // 14), INK if said else QUIET,
             font(layout.height // 14))  # fmt: skip
    if missing and said:
        pen.text((margin, 2.4 * layout.height // 14), missing, QUIET, font(max(9, layout.height // 26)))
    row = min(layout.height // 13, int(0.68 * layout.height) // max(len(classes), 1))
    if classes and row >= 6:
        letters = max(7, min(layout.height // 26, round(0.6 * row)))
        top = 3.2 * layout.height // 14
        best = int(np.argmax(shares)) if shares else -1
        for number, name in enumerate(classes):
            y = top + number * row
            pen.text(
                (margin, y), _fitting(name, int(0.42 * wide), letters), INK if number == best else QUIET, font(letters)
            )
            left, right = margin + int(0.45 * wide), margin + wide
            pen.rectangle((left, y + 0.15 * row, right, y + 0.65 * row), LINE)
            if shares and shares[number] > 0:
                end = left + shares[number] * (right - left)
                pen.rectangle((left, y + 0.15 * row, end, y + 0.65 * row), ORANGE if number == best else BLUE)
    return np.asarray(picture)


def _fitting(text: str, wide: int, size: int) -> str:
    """The text, cut so that it is no wider than this."""
    if font(size).getlength(text) <= wide:
        return text
    while text and font(size).getlength(text + "…") > wide:
        text = text[:-1]
    return text + "…"


@functools.lru_cache(maxsize=1)
def _inferno() -> NDArray[np.uint8]:
    return (255 * matplotlib.colormaps["inferno"](np.arange(256))[:, :3]).round().astype(np.uint8)
