"""A picture's bytes → the input that a model takes, as its bundle describes it. Pillow is loaded when the first picture comes."""

import io
from typing import Any

import numpy as np

from skyloom.core.errors import InvalidInput
from skyloom.inference.elements import Array, to_bfloat16
from skyloom.inference.runtimes.seam import BundleRefused, refused
from skyloom.inference.tensors import DTYPES
from skyloom.rooms.registry.bundle import Datatype, ImageFit, ImageInput, ImageLayout, TensorSpec

PICTURES = (b"image/png", b"image/jpeg")
MAX_PIXELS = 2**24
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class PictureRefused(InvalidInput):
    """The bytes are no picture, or one that is too large."""


class PictureReader:
    """Makes one kind of input of pictures. Any thread may use it.

    Raises `BundleRefused` when the signature's input is none that pictures fit into.
    """

    def __init__(self, described: ImageInput, spec: TensorSpec) -> None:
        self.spec = spec
        self._layout = described.layout
        self._fit = described.fit
        sizes = dict(zip(described.layout.value, spec.shape[1:], strict=False))
        channels = sizes.get("C", 1)
        if len(spec.shape) != 1 + len(described.layout.value) or channels not in _MODES:
            raise _unfit(spec)
        if spec.datatype in (Datatype.BOOL, Datatype.BYTES) or any(
            one not in (1, channels) for one in _lengths(described)
        ):
            raise _unfit(spec)
        self._mode = _MODES[channels]
        self._size = (sizes["W"], sizes["H"])
        self._scale = np.float32(described.scale)
        self._mean = np.array(described.mean or (0.0,), np.float32)
        self._deviation = np.array(described.deviation or (1.0,), np.float32)
        if not self._deviation.all():
            raise _unfit(spec)
        self._is_raw = described.scale == 1.0 and not described.mean and not described.deviation

    def read(self, content: bytes) -> Array:
        """One row, shape [1, …]. Raises `PictureRefused`."""
        pixels = self._pixels(content)
        if self.spec.datatype is not Datatype.UINT8 or not self._is_raw:
            pixels = (pixels * self._scale - self._mean) / self._deviation
        if self._layout is ImageLayout.GREY:
            pixels = pixels[:, :, 0]
        elif self._layout is ImageLayout.CHANNELS_FIRST:
            pixels = pixels.transpose(2, 0, 1)
        if self.spec.datatype is Datatype.BF16:
            return to_bfloat16(np.ascontiguousarray(pixels, np.float32))[None]
        return np.ascontiguousarray(pixels, DTYPES[self.spec.datatype])[None]

    def _pixels(self, content: bytes) -> Array:
        """Shape [height, width, channels], uint8."""
        from PIL import Image

        try:
            image = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
            if image.width * image.height > MAX_PIXELS:
                raise PictureRefused(
                    f"The picture has {image.width} x {image.height} pixels.", next_action=f"Send at most {MAX_PIXELS}."
                )
            image = self._fitted(image.convert(self._mode))
        except PictureRefused:
            raise
        except Exception as error:  # whatever a decoder raises ends here
            raise PictureRefused("The bytes are not a picture.", next_action="Send PNG or JPEG.") from error
        return np.asarray(image, dtype=np.uint8).reshape(image.height, image.width, -1)

    def _fitted(self, image: Any) -> Any:
        wanted = tuple(asked if asked > 0 else own for asked, own in zip(self._size, image.size, strict=True))
        if image.size == wanted:
            return image
        if wanted[0] * wanted[1] > MAX_PIXELS:  # one side is free
            raise PictureRefused(
                f"The picture would have {wanted[0]} x {wanted[1]} pixels.", next_action="Send a smaller one."
            )
        if self._fit is ImageFit.STRETCH:
            return image.resize(wanted, 2)  # bilinear, as training's own ingest
        # Only the middle is made larger or smaller: the whole of a long, thin picture would not fit into memory.
        share = max(wanted[0] / image.width, wanted[1] / image.height)
        width, height = min(wanted[0] / share, image.width), min(wanted[1] / share, image.height)
        left, top = (image.width - width) / 2, (image.height - height) / 2
        return image.resize(wanted, 2, box=(left, top, left + width, top + height))


def _lengths(described: ImageInput) -> tuple[int, int]:
    return len(described.mean) or 1, len(described.deviation) or 1


def _unfit(spec: TensorSpec) -> BundleRefused:
    return refused(
        f"its description of pictures does not fit its input {spec.name!r}", "Export the model again: see ImageInput."
    )
