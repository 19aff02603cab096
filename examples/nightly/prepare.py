"""The first job: reads the settings that came along."""

import tomllib
from pathlib import Path

print("settings:", tomllib.loads(Path("settings.toml").read_text()))
