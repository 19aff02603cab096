"""Bounded types: every input of every operation has a bound, and it stands in the type."""

from typing import Annotated

from msgspec import Meta

Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=80,
        pattern=r"^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$(?!\n)",
        description="Lower-case letters, digits, dot, dash and underscore; starts and ends with a letter or digit.",
    ),
]
Id = Annotated[str, Meta(min_length=1, max_length=120, pattern=r"^[A-Za-z0-9._:-]+$(?!\n)")]
Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$(?!\n)", description="SHA-256 of the bytes.")]
Text = Annotated[str, Meta(max_length=4_000)]
ShortText = Annotated[str, Meta(max_length=400)]
Cursor = Annotated[str, Meta(max_length=200)]
Limit = Annotated[int, Meta(ge=1, le=1_000)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
RelativePath = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=300,
        pattern=r"^(?!/)(?!.*(^|/)\.\.?(/|$))(?!.*//)[^\x00-\x1f\\]+$(?!\n)",
        description="A file below a folder: no leading slash, no '.' or '..' part.",
    ),
]
Cron = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=100,
        description="Five fields (minute, hour, day of month, month, day of week) or @hourly, @daily, @weekly, @monthly, @yearly.",
    ),
]
TimeZone = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_+/-]*$(?!\n)", max_length=64)]
