"""Who may speak to whom: nothing is open but the control plane's TLS port. Needs a network plugin that keeps such policies."""

from skyloom.manifest.model import CLIENT_PORT, TLS_PORT, Installation
from skyloom.manifest.pods import Document, named

_METADATA = "169.254.0.0/16"  # cloud providers hand out credentials there
_DNS: Document = {"ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]}


def documents(wanted: Installation) -> list[Document]:
    """Deny everything, then what is needed."""
    plane = {"app.kubernetes.io/name": wanted.name, "app.kubernetes.io/component": "control-plane"}
    nodes = {"ray.io/cluster": wanted.cluster}
    # Pods are named beside all addresses: to some network plugins an address is never a pod.
    to_plane, to_nodes = _to(plane), _to(nodes)
    outside = {"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": [_METADATA]}}, {"ipBlock": {"cidr": "::/0"}}]}
    return [
        _policy(wanted, "deny", {}, [], []),
        _policy(wanted, "control-plane", plane, [{"ports": _ports(TLS_PORT)}], [_DNS, to_nodes, outside]),
        _policy(
            wanted,
            "ray",
            nodes,
            [_from(nodes), {**_from(plane), "ports": _ports(CLIENT_PORT)}],
            [_DNS, to_plane, to_nodes, outside],
        ),
    ]


def _ports(port: int) -> list[Document]:
    return [{"protocol": "TCP", "port": port}]


def _from(labels: dict[str, str]) -> Document:
    return {"from": [{"podSelector": {"matchLabels": labels}}]}


def _to(labels: dict[str, str]) -> Document:
    return {"to": [{"podSelector": {"matchLabels": labels}}]}


def _policy(
    wanted: Installation, name: str, labels: dict[str, str], ingress: list[Document], egress: list[Document]
) -> Document:
    selector = {"matchLabels": labels} if labels else {}
    spec = {
        "podSelector": selector,
        "policyTypes": ["Ingress", "Egress"],
        **({"ingress": ingress} if ingress else {}),
        **({"egress": egress} if egress else {}),
    }
    return named("NetworkPolicy", "networking.k8s.io/v1", f"{wanted.name}-{name}", wanted.namespace, spec=spec)
