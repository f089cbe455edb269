"""Image encoders: an image in, a map of features out. A small one of our own, and any of timm's by its name."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from affuse.types import AffuseError

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SmallEncoder(nn.Module):
    """Four convolutions, each with batch normalisation and ReLU: 64 channels at an eighth of the image's side.

    About 3.7 million multiply-adds for an image of 64 x 64 pixels, so that a network with one for each sensor trains on two
    CPU cores. Our own; no paper has it.

    Args:
        channels: channels of the image.
    """

    width = 64

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths, strides = (channels, 16, 24, 48, self.width), (2, 2, 2, 1)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
                )
                for before, after, stride in zip(widths, widths[1:], strides, strict=False)
            )
        )

    def forward(self, images: Float[Tensor, "r c h w"]) -> Float[Tensor, "r d y x"]:
        return self.blocks(images)


class ImageEncoder(nn.Module):
    """Frames of clips as maps of features.

    Where only one clip is given in training, batch normalisation uses its running statistics and leaves them alone: the
    frames of one clip are no sample of the population.

    Args:
        name: ``small`` or a model of timm, without its pooling and classifier.
        channels: channels of the image.
        pretrained: take timm's published weights (downloaded by timm at first use).
        weights: a safetensors file with the encoder's own weights, read after the above.
        widths: channels of the four stages, for a ResNet of timm only; its stem is then the deep one, of 3 x 3 convolutions,
            the only one of timm's whose width follows. None: the model's own.

    Raises:
        AffuseError: timm knows no such model, or it gives no map of features; the weights cannot be read or do not fit; the
            model's widths cannot be set.
    """

    width: int

    def __init__(
        self,
        name: str,
        channels: int,
        pretrained: bool = False,
        weights: str | None = None,
        widths: tuple[int, int, int, int] | None = None,
    ) -> None:
        super().__init__()
        if widths is not None and (not name.startswith("resnet") or pretrained or widths[0] % 2):
            raise AffuseError(
                f"encoder {name!r} cannot have widths {list(widths)}: they are of a ResNet of timm without pretrained weights, "
                "and the first is even"
            )
        if name == "small":
            if pretrained:
                raise AffuseError("encoder 'small' has no pretrained weights: set pretrained to false")
            self.net: nn.Module = SmallEncoder(channels)
            self.width = SmallEncoder.width
        else:
            if not timm.is_model(name):
                close = ", ".join(timm.list_models(f"*{name[:6]}*")[:3]) or "resnet18"
                raise AffuseError(f"encoder {name!r} is neither 'small' nor a model of timm; near it: {close}")
            narrow: dict[str, Any] = {}
            if widths is not None:
                narrow = {"channels": widths, "stem_type": "deep", "stem_width": widths[0] // 2}
            try:
                self.net = timm.create_model(
                    name, pretrained=pretrained, in_chans=channels, num_classes=0, global_pool="", **narrow
                )
            except (OSError, RuntimeError, TypeError, ValueError) as error:
                line = (str(error).splitlines() or [type(error).__name__])[0]
                raise AffuseError(f"encoder {name!r} could not be made by timm: {line}") from error
            self.width = int(self.net.num_features)  # type: ignore[arg-type]
        if weights is not None:
            _load(self.net, Path(weights))

    def forward(self, clips: Float[Tensor, "r t c h w"]) -> Float[Tensor, "r t d y x"]:
        with own_statistics(self.net, learn=len(clips) > 1):
            maps = self.net(clips.flatten(0, 1))  # (r t) d y x
        if maps.ndim != 4:
            raise AffuseError(
                f"this encoder gives {tuple(maps.shape)}, not a map of features: choose a convolutional one"
            )
        return maps.unflatten(0, clips.shape[:2])

    def last_map(self) -> nn.Module:
        """The module whose output is the last map of features, ((r t), d, y, x)."""
        return self.net


@contextmanager
def own_statistics(net: nn.Module, learn: bool) -> Iterator[None]:
    """Inside, batch normalisation in training uses its running statistics and leaves them alone, unless it may `learn`."""
    frozen = [] if learn else [module for module in net.modules() if isinstance(module, NORMS) and module.training]
    for module in frozen:
        module.eval()
    try:
        yield
    finally:
        for module in frozen:
            module.train()


def _load(net: nn.Module, path: Path) -> None:
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise AffuseError(f"{path}: cannot read these encoder weights as safetensors: {error}") from None
    own = net.state_dict()
    wrong = [key for key, value in own.items() if key not in stored or stored[key].shape != value.shape]
    if wrong:
        raise AffuseError(
            f"{path}: does not fit the encoder: {len(wrong)} tensors missing or misshapen, as {wrong[0]!r}"
        )
    net.load_state_dict({key: stored[key] for key in own})


def grid_pool(maps: Float[Tensor, "r t d y x"], side: int) -> Float[Tensor, "r t f"]:
    """Average each map over a `side` x `side` grid, and lay the cells side by side: f = d * side * side."""
    if side == 1:
        return maps.mean((3, 4))
    if torch.compiler.is_dynamo_compiling():  # the cache below would be a warning, and is not needed there
        return nn.functional.adaptive_avg_pool2d(maps.flatten(0, 1), side).flatten(1).unflatten(0, maps.shape[:2])
    h, w = maps.shape[3:]
    shares = torch.from_numpy(_grid_shares(h, w, side)).to(maps)  # (h w) cells
    return (maps.flatten(3) @ shares).flatten(2)


@functools.cache
def _grid_shares(h: int, w: int, side: int) -> NDArray[np.float32]:
    """Share of each position of a map in each cell of a grid, (h * w, side * side): the windows of `adaptive_avg_pool2d`.

    A product with it takes an eighth of the time of that function, which looks at the few numbers of a cell one by one.
    """
    down, across = np.zeros((h, side), np.float32), np.zeros((w, side), np.float32)
    for axis in (down, across):
        for cell in range(side):
            window = slice(cell * len(axis) // side, -(-(cell + 1) * len(axis) // side))
            axis[window, cell] = 1 / (window.stop - window.start)
    return np.kron(down, across)
