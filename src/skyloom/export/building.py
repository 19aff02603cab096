"""Building the image with what this machine has: tools that need no root come first."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from skyloom.core.errors import Unavailable

TOOLS = ("buildah", "podman", "docker")


class NoImageTool(Unavailable):
    """This machine has nothing that builds images."""


class ImageNotBuilt(Unavailable):
    """The tool that builds images has failed; its own words are on the terminal."""


def argv(tool: str, image: str, folder: Path) -> list[str]:
    """The command that builds."""
    return [tool, "build", "--tag", image, str(folder)]


def build(image: str, folder: Path, which: Callable[[str], str | None] = shutil.which) -> str:
    """Build the image of an exported folder; returns the tool. Raises `NoImageTool`, `ImageNotBuilt`."""
    tool = next((name for name in TOOLS if which(name)), None)
    if tool is None:
        raise NoImageTool(
            f"None of {', '.join(TOOLS)} is installed here, so no image was built.",
            next_action=f"Build it elsewhere: podman build -t {image} {folder}. The folder is complete.",
        )
    done = subprocess.run(argv(tool, image, folder), check=False)
    if done.returncode:
        raise ImageNotBuilt(
            f"{tool} build ended with {done.returncode}.", next_action=f"Read what it said about {folder}."
        )
    return tool
