"""The control plane: one pod, because one process writes its database; TLS in front of it, because it listens on loopback only."""

from skyloom.core.resources import Resources
from skyloom.manifest.model import (
    HOME_FOLDER,
    PLANE_PORT,
    SHARED_FOLDER,
    TLS_PORT,
    TOKEN_FOLDER,
    TOKEN_KEY,
    Installation,
)
from skyloom.manifest.pods import (
    SECURITY,
    USER,
    Document,
    amounts,
    claim,
    empty,
    mount,
    named,
    secret_volume,
    variables,
)

_PLANE = Resources(cpus=2, memory_bytes=4 * 2**30)
_PROXY = Resources(cpus=0.25, memory_bytes=128 * 2**20)
_ASK = f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{PLANE_PORT}/%s', timeout=5)"
_NGINX = f"""\
pid /tmp/nginx.pid;
error_log /dev/stderr warn;
events {{ worker_connections 2048; }}
http {{
  client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy;
  fastcgi_temp_path /tmp/fastcgi; uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
  access_log off; server_tokens off;
  map $http_upgrade $connection_upgrade {{ default upgrade; "" close; }}
  server {{
    listen {TLS_PORT} ssl;
    http2 on;
    ssl_certificate /etc/skyloom/tls/tls.crt;
    ssl_certificate_key /etc/skyloom/tls/tls.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    client_max_body_size 0;
    client_header_timeout 10s; client_body_timeout 60s;
    location / {{
      proxy_pass http://127.0.0.1:{PLANE_PORT};
      proxy_set_header Host 127.0.0.1:{PLANE_PORT};
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_http_version 1.1;
      proxy_request_buffering off; proxy_buffering off;
      proxy_read_timeout 300s;
    }}
  }}
}}
"""


def documents(wanted: Installation) -> list[Document]:
    """ServiceAccount, ConfigMap, Deployment, Service, PodDisruptionBudget."""
    name, space = wanted.name, wanted.namespace
    account = named("ServiceAccount", "v1", name, space, automountServiceAccountToken=False)
    proxy = named("ConfigMap", "v1", f"{name}-proxy", space, data={"nginx.conf": _NGINX})
    ports = [{"name": "https", "port": TLS_PORT, "targetPort": "https", "protocol": "TCP"}]
    service = named("Service", "v1", name, space, spec={"selector": _labels(wanted), "ports": ports})
    budget = {"maxUnavailable": 0, "selector": {"matchLabels": _labels(wanted)}}
    disruption = named("PodDisruptionBudget", "policy/v1", name, space, spec=budget)
    return [account, proxy, _deployment(wanted), service, disruption]


def _labels(wanted: Installation) -> dict[str, str]:
    return {"app.kubernetes.io/name": wanted.name, "app.kubernetes.io/component": "control-plane"}


def _deployment(wanted: Installation) -> Document:
    pod = {
        "serviceAccountName": wanted.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 60,
        "securityContext": {"fsGroup": USER, "runAsNonRoot": True},
        "containers": [_plane(wanted), _proxy(wanted)],
        "volumes": [
            claim("home", f"{wanted.name}-home"),
            claim("shared", f"{wanted.name}-shared"),
            secret_volume("ray-token", f"{wanted.name}-ray-token", TOKEN_KEY),
            secret_volume("tls", wanted.tls_secret, "tls.crt", "tls.key"),
            {"name": "proxy", "configMap": {"name": f"{wanted.name}-proxy"}},
            empty("temporary"),
            empty("proxy-temporary"),
        ],
    }
    spec = {
        "replicas": 1,
        "strategy": {"type": "Recreate"},  # two would write one database
        "selector": {"matchLabels": _labels(wanted)},
        "template": {"metadata": {"labels": _labels(wanted)}, "spec": pod},
    }
    return named("Deployment", "apps/v1", wanted.name, wanted.namespace, spec=spec)


def _plane(wanted: Installation) -> Document:
    told = {"SKYLOOM_HOME": f"{HOME_FOLDER}/cloud", "SKYLOOM_PORT": str(PLANE_PORT), "HOME": HOME_FOLDER}
    return {
        "name": "control-plane",
        "image": wanted.image,
        "command": ["skyloom", "up"],
        "env": variables(told),
        "resources": amounts(_PLANE),
        "securityContext": {**SECURITY, "readOnlyRootFilesystem": True},
        "startupProbe": {**_probe("healthz"), "failureThreshold": 60, "periodSeconds": 2},
        "livenessProbe": {**_probe("healthz"), "periodSeconds": 20, "failureThreshold": 6},
        "readinessProbe": {**_probe("readyz"), "periodSeconds": 5},
        "volumeMounts": [
            mount("home", HOME_FOLDER),
            mount("shared", SHARED_FOLDER),
            mount("ray-token", TOKEN_FOLDER, read_only=True),
            mount("temporary", "/tmp"),  # noqa: S108 (an empty volume of this pod)
        ],
    }


def _probe(page: str) -> Document:
    return {"exec": {"command": ["python", "-c", _ASK % page]}, "timeoutSeconds": 10}


def _proxy(wanted: Installation) -> Document:
    return {
        "name": "tls",
        "image": wanted.proxy_image,
        "command": ["nginx", "-c", "/etc/skyloom/proxy/nginx.conf", "-g", "daemon off;"],
        "ports": [{"name": "https", "containerPort": TLS_PORT, "protocol": "TCP"}],
        "resources": amounts(_PROXY),
        "securityContext": {**SECURITY, "readOnlyRootFilesystem": True},
        "readinessProbe": {"tcpSocket": {"port": "https"}},
        "volumeMounts": [
            mount("proxy", "/etc/skyloom/proxy", read_only=True),
            mount("tls", "/etc/skyloom/tls", read_only=True),
            mount("proxy-temporary", "/tmp"),  # noqa: S108
        ],
    }
