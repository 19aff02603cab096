"""What a Kubernetes installation is to look like, bounded so that every value has one meaning there."""

from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.resources import Resources

# RFC 1123 label, with room for what operators append to it.
ObjectName = Annotated[str, Meta(max_length=40, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$(?!\n)")]
Image = Annotated[str, Meta(min_length=1, max_length=400, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$(?!\n)")]
Volume = Annotated[int, Meta(ge=2**30, le=2**60)]


class WorkerGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes of one kind, between two numbers.

    Attributes:
        resources: of one node; tasks of it get at most this.
    """

    name: ObjectName
    resources: Resources
    min_nodes: Annotated[int, Meta(ge=0, le=10_000)] = 0
    max_nodes: Annotated[int, Meta(ge=1, le=10_000)] = 1


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """One control plane and one Ray cluster in one namespace.

    Attributes:
        image: holds Skyloom with its extras ``local``, ``train`` and ``ray``, and a user 1000; the same for control plane and nodes.
        proxy_image: nginx that runs as no user of the system; it speaks TLS for the control plane, which listens on loopback only.
        tls_secret: a Secret of type kubernetes.io/tls for the control plane's name, made by the user or by cert-manager.
        private_ca: the certificate's issuer is in ``ca.crt`` of that Secret, and nodes are to trust it.
        ray_token: the cluster's token, written into a Secret.
        home_bytes: disk of the control plane; ``shared_bytes``: of the folder that all nodes share (checkpoints).
        storage_class, shared_storage_class: empty for the cluster's default; the second must offer ReadWriteMany.
    """

    image: Image
    ray_token: Annotated[str, Meta(min_length=32, max_length=200, pattern=r"^[0-9A-Za-z]+$(?!\n)")]
    groups: Annotated[tuple[WorkerGroup, ...], Meta(min_length=1, max_length=50)]
    name: ObjectName = "skyloom"
    namespace: ObjectName = "skyloom"
    proxy_image: Image = "nginxinc/nginx-unprivileged:1.29-alpine"
    tls_secret: ObjectName = "skyloom-tls"  # noqa: S105 (the name of one)
    private_ca: bool = False
    home_bytes: Volume = 50 * 2**30
    shared_bytes: Volume = 200 * 2**30
    storage_class: Annotated[str, Meta(max_length=200)] = ""
    shared_storage_class: Annotated[str, Meta(max_length=200)] = ""
    idle_s: Annotated[int, Meta(ge=10, le=86_400)] = 300

    @property
    def cluster(self) -> str:
        """Name of the RayCluster."""
        return f"{self.name}-ray"

    @property
    def address(self) -> str:
        """Where the control plane meets the cluster: the service that the operator makes for its head."""
        return f"ray://{self.cluster}-head-svc.{self.namespace}.svc:{CLIENT_PORT}"

    @property
    def url(self) -> str:
        """Where nodes and people meet the control plane."""
        return f"https://{self.name}.{self.namespace}.svc:{TLS_PORT}"


CLIENT_PORT = 10001  # of Ray's client server
HEAD_PORT = 6379
TLS_PORT = 8443
PLANE_PORT = 8470
TOKEN_FOLDER = "/var/run/skyloom/ray"  # noqa: S105 (a folder)
TOKEN_KEY = "auth_token"  # noqa: S105 (KubeRay's own word)
SHARED_FOLDER = "/mnt/skyloom"
NODE_FOLDER = "/var/lib/skyloom"
HOME_FOLDER = "/home/skyloom"
CA_FOLDER = "/etc/skyloom/ca"
RAY_VERSION = "2.60.0"
