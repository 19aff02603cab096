"""Several models in one endpoint: which ones, by digest, and how much of them may be in memory at once.

An endpoint has the model that it was deployed with, always in memory, and a pack of guests beside it. Guests are no part of a revision:
adding one starts nothing anew. Every replica is told of them in one file (`PackTable`), loads one when it is asked for, and lets go of the
one that was asked for longest ago.
"""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Count, Digest, Id, Name
from skyloom.core.errors import InvalidInput
from skyloom.rooms.monitoring.model import Traffic
from skyloom.rooms.registry.services import Reference

MAX_PACKED = 256
_Label = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,80}$(?!\n)")]
_Bytes = Annotated[int, Meta(ge=0, le=2**50)]
References = Annotated[tuple[Reference, ...], Meta(max_length=MAX_PACKED)]
Names = Annotated[tuple[Name, ...], Meta(max_length=MAX_PACKED)]
NumLoaded = Annotated[int, Meta(ge=1, le=MAX_PACKED)]
PackBytes = Annotated[int, Meta(ge=2**20, le=2**50)]


class PackUnclear(InvalidInput):
    """The models, or the bounds of what may be in memory, cannot be meant together."""


class PackedModel(msgspec.Struct, frozen=True, kw_only=True):
    """One guest: a version of a registered model, which never changes.

    Attributes:
        version: id of the registered version; ``label`` is its number, the version's name on the wire.
    """

    model: Name
    version: Id
    label: _Label


class Pack(msgspec.Struct, frozen=True, kw_only=True):
    """The guests of an endpoint, sorted by name, and the bounds of what one replica has in memory of them.

    Attributes:
        memory_bytes: of all guests in memory together, as measured; 0 for half of what its replicas are given.
        max_loaded: so many at once.
    """

    models: Annotated[tuple[PackedModel, ...], Meta(max_length=MAX_PACKED)] = ()
    memory_bytes: _Bytes = 0
    max_loaded: NumLoaded = 32


class PackEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One guest as a replica is told of it.

    Attributes:
        folder: of its bundle; ``manifest`` is its digest, and every byte is compared with it before it is loaded.
        size_bytes: of its files; what it needs in memory is measured.
    """

    model: Name
    version: Id
    label: _Label
    folder: Annotated[str, Meta(max_length=4_096)]
    manifest: Digest
    size_bytes: _Bytes = 0


class PackTable(msgspec.Struct, frozen=True, kw_only=True):
    """All guests of one endpoint. The control plane writes it whole."""

    entries: Annotated[tuple[PackEntry, ...], Meta(max_length=MAX_PACKED)] = ()
    memory_bytes: _Bytes = 0
    max_loaded: NumLoaded = 32


class GuestState(enum.StrEnum):
    """Where a guest is."""

    ABSENT = "absent"  # its next request loads it
    LOADING = "loading"
    LOADED = "loaded"
    BROKEN = "broken"  # it could not be loaded; it is tried again after a while


class GuestTraffic(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica saw of one guest since it was told of it. A guest that saw nothing new is told of now and then only.

    Attributes:
        traffic: its histograms follow the profile of the guest's own version.
    """

    model: Name
    version: _Label
    traffic: Traffic


class GuestReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica says of one guest that was ever asked for.

    Attributes:
        memory_bytes: what loading it took, as measured; 0 while that is not known.
        loads: how often it was loaded.
    """

    model: Name
    version: _Label
    state: GuestState
    memory_bytes: Count = 0
    requests: Count = 0
    loads: Count = 0
