"""What data needs stored."""

from skyloom.ports.store import Collection
from skyloom.rooms.data.model import Dataset, DatasetVersion, Draft

DATASETS = Collection("datasets", Dataset, unique=("name",))
DRAFTS = Collection("drafts", Draft, indexes=("dataset_id", "job_id"))
VERSIONS = Collection("dataset_versions", DatasetVersion, indexes=("dataset_id", "number"))

COLLECTIONS = (DATASETS, DRAFTS, VERSIONS)
PROGRAM = "skyloom.recipes.version"
