"""What the registry needs stored."""

from skyloom.ports.store import Collection
from skyloom.rooms.registry.model import Model, ModelVersion

MODELS = Collection("models", Model, unique=("name",))
VERSIONS = Collection("model_versions", ModelVersion, indexes=("model", "number", "run_id"), unique=("model", "number"))

COLLECTIONS = (MODELS, VERSIONS)
