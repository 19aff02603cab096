"""Pictures become inputs: the right part of them, and never more memory than their own size explains."""

import io

import numpy as np
import pytest
from PIL import Image

from skyloom.inference.pictures import MAX_PIXELS, PictureReader, PictureRefused
from skyloom.rooms.registry.bundle import Datatype, ImageFit, ImageInput, ImageLayout, TensorSpec


def reader(*shape: int, fit: ImageFit = ImageFit.CROP) -> PictureReader:
    described = ImageInput(tensor="x", layout=ImageLayout.GREY, fit=fit)
    return PictureReader(described, TensorSpec(name="x", datatype=Datatype.UINT8, shape=(-1, *shape)))


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize("shape", [(1, MAX_PIXELS), (MAX_PIXELS, 1)])
def test_crop_of_a_long_thin_picture_takes_its_middle_and_little_memory(shape):
    pixels = np.zeros(shape, np.uint8)
    pixels.ravel()[MAX_PIXELS // 2 - 500 : MAX_PIXELS // 2 + 500] = 200
    assert (reader(224, 224).read(png(pixels)) == 200).all()  # grown whole it would have had 3.7e9 pixels


def test_crop_keeps_the_middle():
    pixels = np.zeros((10, 30), np.uint8)
    pixels[:, 10:20] = 100
    assert (reader(10, 10).read(png(pixels)) == 100).all()
    assert (reader(5, 5).read(png(pixels))[0, :, 1:4] == 100).all()


def test_picture_that_would_grow_beyond_the_bound_is_refused():
    pixels = np.zeros((1, 100_000), np.uint8)
    with pytest.raises(PictureRefused, match="224 pixels"):
        reader(224, -1, fit=ImageFit.STRETCH).read(png(pixels))


def test_picture_that_breaks_its_decoder_is_refused():
    whole = png(np.zeros((8, 8), np.uint8))
    end = whole.index(b"IDAT") - 4
    for content in (whole[:end], whole[: end + 9], whole[:end] + b"\0\0\0\x01gAMA\0" + whole[end:], b""):
        with pytest.raises(PictureRefused):
            reader(8, 8).read(content)
