"""Pure: the columns that a sampled row has, from what its model takes and gives."""

from skyloom.rooms.registry.bundle import Manifest
from skyloom.rooms.serving.samples import OWN_COLUMNS


def columns_of(manifest: Manifest) -> tuple[str, ...]:
    """Names in the order of a row: the model's own columns or its inputs, then its outputs. No two are equal, none is one of ours.

    None for a service of one's own Python, whose bodies nobody here can read.
    """
    if manifest.service is not None:
        return ()
    inputs = manifest.columns if manifest.is_tabular else tuple(spec.name for spec in manifest.signature.inputs)
    found: list[str] = []
    outputs = [(spec.name, "_output") for spec in manifest.signature.outputs]
    for name, suffix in [*((name, "_input") for name in inputs), *outputs]:
        while name in found or name in OWN_COLUMNS:
            name += suffix
        found.append(name)
    return tuple(found)
