"""Nodes that Ray's own autoscaler starts and ends: its provider of fake nodes, processes of this machine. Imported by the autoscaler."""

import secrets

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class ElasticNodes(FakeMultiNodeProvider):  # type: ignore[misc]
    """Ids of nodes differ from their first letters on, as real ones do."""

    def _next_hex_node_id(self) -> str:
        return secrets.token_hex(28)
