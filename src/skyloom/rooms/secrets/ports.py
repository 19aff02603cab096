"""What secrets need stored."""

from skyloom.ports.store import Collection
from skyloom.rooms.secrets.model import DataKey, Secret

DATA_KEYS = Collection("data_keys", DataKey)
SECRETS = Collection("secrets", Secret, unique=("name",))

COLLECTIONS = (DATA_KEYS, SECRETS)
