"""Pure decisions of the registry: is a manifest whole, which version is meant, is this the version that the run registered before."""

from collections import Counter

from skyloom.rooms.registry.bundle import (
    MANIFEST_FILE,
    MODEL_FILES,
    PROFILE_FILE,
    Manifest,
    ModelKind,
    RuntimeName,
)
from skyloom.rooms.registry.model import (
    NEWEST,
    BundleInvalid,
    Model,
    ModelVersion,
    ModelVersionMissing,
    RegisterModelVersion,
)


def check_manifest(manifest: Manifest) -> None:
    """Raise `BundleInvalid` unless the manifest describes a model that can be served."""
    paths = Counter(file.path for file in manifest.files)
    twice = [path for path, count in paths.items() if count > 1]
    if twice:
        raise invalid(f"lists {twice[0]!r} twice", "List each file once.")
    if MANIFEST_FILE in paths:
        raise invalid(f"lists {MANIFEST_FILE}, which is itself", "Leave it out: it is made of what is registered.")
    if manifest.image and manifest.image.tensor not in {tensor.name for tensor in manifest.signature.inputs}:
        raise invalid(f"describes pictures for {manifest.image.tensor!r}, which is no input", "Name an input.")
    for needed in _needed(manifest):
        if needed not in paths:
            raise invalid(f"lists no {needed}", "Make the bundle with skyloom.recipes.package.")
    for tensor in (*manifest.signature.inputs, *manifest.signature.outputs):
        if tensor.shape[0] != -1:
            raise invalid(f"fixes the batch of {tensor.name!r} to {tensor.shape[0]}", "Export with a free first axis.")
    if manifest.runtime is RuntimeName.SERVICE:
        return
    if not manifest.signature.inputs or not manifest.signature.outputs:
        raise invalid("has a signature without inputs or outputs", "Name at least one of each.")
    scores = manifest.signature.outputs[0].shape[-1]
    if manifest.kind is ModelKind.CLASSIFICATION and manifest.labels and len(manifest.labels) != scores:
        raise invalid(f"has {len(manifest.labels)} labels for {scores} scores", "Give one label for each score.")


def _needed(manifest: Manifest) -> tuple[str, ...]:
    """The files without which the runtime has nothing to run."""
    if manifest.runtime is not RuntimeName.SERVICE:
        if manifest.service is not None:
            raise invalid("describes a service for another runtime", "Register it with skyloom deploy FILE.py:CLASS.")
        return MODEL_FILES[manifest.runtime], PROFILE_FILE
    if manifest.service is None:
        raise invalid("does not describe its service", "Register it with skyloom deploy FILE.py:CLASS.")
    nested = tuple(f"{folder}/{MANIFEST_FILE}" for folder in manifest.service.models.values())
    return manifest.service.entry, *nested


def invalid(what: str, next_action: str) -> BundleInvalid:
    """The error for a manifest that cannot be meant."""
    return BundleInvalid(f"The bundle's manifest {what}.", next_action=next_action)


def number_of(model: Model, reference: str) -> int:
    """The version number that ``3``, an alias or ``newest`` means. Raises `ModelVersionMissing`."""
    if reference == NEWEST:
        return model.newest
    if reference in model.aliases:
        return model.aliases[reference]
    if reference.isascii() and reference.isdigit() and 1 <= int(reference) <= model.newest:
        return int(reference)
    known = ", ".join(sorted(model.aliases)) or "none"
    raise ModelVersionMissing(
        f"{model.name} has no version {reference!r}.",
        next_action=f"Versions are 1 to {model.newest}; aliases: {known}.",
    )


def is_same(version: ModelVersion, ask: RegisterModelVersion) -> bool:
    """True when a request describes a version that is registered already."""
    return version.manifest == ask.manifest
