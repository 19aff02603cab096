"""From an installation to YAML files in a folder of the user's. Nothing that is there is overwritten."""

from pathlib import Path
from typing import Any

import msgspec

from skyloom.core.errors import AlreadyExists, Unavailable
from skyloom.durable import disk_errors
from skyloom.manifest.kubernetes import files
from skyloom.manifest.model import Installation
from skyloom.manifest.pods import Document


class FileThere(AlreadyExists):
    """A file that would be written is there already."""


def write(wanted: Installation, folder: Path) -> list[Path]:
    """Write all files, the secret one for its owner only. Raises `FileThere`, `Unavailable`, and what the disk refuses."""
    yaml = _yaml()
    contents = {folder / name: documents for name, documents in files(wanted).items()}
    there = next((path for path in contents if path.exists()), None)
    if there is not None:
        raise FileThere(
            f"{there} is there already.",
            next_action="Choose another folder, or remove the old files: their token is in use.",
        )
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path, documents in contents.items():
            path.touch(mode=0o600 if "secret" in path.name else 0o644, exist_ok=False)
            path.write_text("".join(f"---\n{_text(yaml, document)}" for document in documents))
    return list(contents)


def _text(yaml: Any, document: Document) -> str:
    """Without anchors: what two objects share is written twice, because people read it. What is repeated goes by JSON."""
    plain = msgspec.json.decode(msgspec.json.encode(document))
    text: str = yaml.safe_dump(plain, sort_keys=False, width=120)
    return text


def _yaml() -> Any:
    try:
        import yaml
    except ImportError:
        raise Unavailable(
            "Writing YAML needs PyYAML, which is not installed.",
            next_action="Install it: pip install 'skyloom[manifest]'.",
        ) from None
    return yaml
