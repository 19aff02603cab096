"""Rubbish at the door: whatever bytes come, the answer is a clear 4xx, and the server goes on. Made from the OpenAPI and by hand."""

import json
import os
import random
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.control_plane import ControlPlane

# A campaign: FUZZ_ROUNDS=100 pytest tests/faces/test_fuzz.py -k random
ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "3"))
ODD_TEXTS = (
    "",
    ".",
    "..",
    "../../token",
    "a\n",
    "a\r\nx: y",
    "\x00",
    "\x1b[2J",
    "\u202egnp",
    "%2e%2e%2f",
    "'; DROP TABLE jobs; --",
    "{{7*7}}",
    "$(id)",
    "-rf",
    "x" * 5_000,
    "é" * 400,
    "😀",
    "ep_\u0000",
    "job_01.1.0",
    "*",
    "newest",
    "file:///etc/passwd",
)
ODD_VALUES: tuple[Any, ...] = (
    *ODD_TEXTS,
    None,
    True,
    -1,
    0,
    1,
    2**53,
    2**63 - 1,
    2**63,
    10**30,
    -(2**63) - 1,
    0.5,
    1e308,
    [],
    {},
    [[[]]],
    {"type": "command"},
    [0] * 2_000,
    {"x" * 300: "y"},
)
# What no JSON writer makes.
RAW_BODIES = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"NaN",
    b'{"spec": NaN}',
    b'{"spec": Infinity}',
    b'{"spec": 1e999}',
    b'{"a": ' + b"9" * 5_000 + b"}",
    b"\xff\xfe",
    b'{"name": "\xff"}',
    b'{"name": "\\ud800"}',
    b'{"name": "\\u0000"}',
    b"[" * 200_000,
    b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    b'{"spec": {}, "spec": {}}',
    b"\xef\xbb\xbf{}",
)
ZERO = "sha256:" + "0" * 64
LEAKS = re.compile(r"Traceback|File \"/|sqlite3|site-packages|SELECT |, line ")


@pytest.fixture(scope="module")
def cloud_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One of its own: in the shared one, jobs of other tests name the folder of the tables among their arguments."""
    plane = ControlPlane(tmp_path_factory.mktemp("fuzz") / "home").start().ready()
    yield plane
    plane.end_everything()


@pytest.fixture
def http(cloud_process: ControlPlane) -> httpx.Client:
    headers = {"authorization": f"Bearer {cloud_process.token}"}
    return httpx.Client(base_url=cloud_process.url, headers=headers, trust_env=False, verify=False, timeout=30)


def is_refusal(response: httpx.Response, plane: ControlPlane) -> None:
    """No fault of ours, and no word about the machine."""
    assert response.status_code < 500, (response.request.method, response.request.url, response.text)
    assert not LEAKS.search(response.text)
    assert str(plane.home) not in response.text


def example(schema: dict[str, Any], schemas: dict[str, Any], dice: random.Random, depth: int = 0) -> Any:
    """A value that a schema describes, more or less: now and then a part of it is something else."""
    if dice.random() < 0.12 or depth > 8:
        return dice.choice(ODD_VALUES)
    if "$ref" in schema:
        return example(schemas[schema["$ref"].rsplit("/", 1)[1]], schemas, dice, depth + 1)
    if "anyOf" in schema or "oneOf" in schema:
        return example(dice.choice(schema.get("anyOf") or schema["oneOf"]), schemas, dice, depth + 1)
    if "enum" in schema or "const" in schema:
        return dice.choice(schema.get("enum") or [schema["const"]])
    kind = schema.get("type")
    if kind == "object":
        needed = set(schema.get("required", ()))
        named = {
            name: example(part, schemas, dice, depth + 1)
            for name, part in schema.get("properties", {}).items()
            if name in needed or dice.random() < 0.4
        }
        return {**named, **({"surprise": 1} if dice.random() < 0.05 else {})}
    if kind == "array":
        items = schema.get("items") or next(iter(schema.get("prefixItems", ())), {})
        return [example(items, schemas, dice, depth + 1) for _ in range(dice.randrange(3))] if items else []
    low, high = schema.get("minimum", schema.get("exclusiveMinimum", -5)), schema.get("maximum", 10**6)
    plain: dict[Any, Any] = {
        "integer": dice.choice((low, high, 1)),
        "number": dice.choice((low, high, 0.25)),
        "boolean": True,
        "null": None,
    }
    return plain.get(
        kind, "sha256:" + "0" * 64 if "sha256" in schema.get("pattern", "") else dice.choice(("a", "x.py"))
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_random_requests_of_every_operation_are_never_a_fault(
    http: httpx.Client, cloud_process: ControlPlane, seed: int
) -> None:
    dice, described = random.Random(seed), http.get("/openapi.json").json()
    schemas = described["components"]["schemas"]
    doors = [
        (verb, path, entry)
        for path, verbs in described["paths"].items()
        for verb, entry in verbs.items()
        if path not in ("/v1/projects", "/v1/projects/{project}/tokens")  # the shared cloud is to stay as it is
    ]
    assert len(doors) > 40
    for verb, path, entry in doors * ROUNDS:
        query: dict[str, str] = {}
        for part in entry["parameters"]:
            value = "default" if part["name"] == "project" else example(part["schema"], schemas, dice)
            if part["in"] == "path":
                path = path.replace(f"{{{part['name']}}}", quote(str(value)[:2_000], safe="") or "x")
            elif part["in"] == "query" and dice.random() < 0.7:
                query[part["name"]] = str(value)[:2_000]
        body = None
        if "requestBody" in entry:
            schema = entry["requestBody"]["content"]["application/json"]["schema"]
            body = json.dumps(example(schema, schemas, dice)).encode()
            body = body.replace(b'"argv"', b'"args"')  # nothing of this may run
        headers = {"content-type": "application/json"} if body is not None else {}
        is_refusal(http.request(verb.upper(), path, params=query, content=body, headers=headers), cloud_process)
    assert http.get("/readyz").status_code == 200


@pytest.mark.parametrize("body", RAW_BODIES, ids=lambda body: repr(body[:24]))
def test_body_that_is_no_request_is_refused(http: httpx.Client, cloud_process: ControlPlane, body: bytes) -> None:
    for path in ("jobs", "trainings", "datasets", "endpoints/x/traffic", "models/x/versions", "runs/x/measurements"):
        response = http.post(f"/v1/projects/default/{path}", content=body, headers={"content-type": "application/json"})
        is_refusal(response, cloud_process)
        assert response.status_code in (404, 413, 422)


@pytest.mark.parametrize("text", ODD_TEXTS, ids=lambda text: repr(text[:16]))
def test_odd_text_in_any_place_of_a_path_or_query_is_refused_or_absent(
    http: httpx.Client, cloud_process: ControlPlane, text: str
) -> None:
    odd = quote(text, safe="")
    for path in (
        f"jobs/{odd}",
        f"blobs/{odd}",
        f"datasets/{odd}/rows",
        f"why/{odd}",
        f"lineage/{odd}",
        f"models/{odd}",
    ):
        is_refusal(http.get(f"/v1/projects/default/{path}"), cloud_process)
    is_refusal(http.get(f"/v1/projects/{odd}/jobs"), cloud_process)
    for name in ("limit", "cursor", "live", "surprise"):
        is_refusal(http.get("/v1/projects/default/jobs", params={name: text}), cloud_process)


@pytest.mark.parametrize("header", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "_method"])
def test_method_cannot_be_overridden(http: httpx.Client, header: str) -> None:
    response = http.get("/v1/projects/default/jobs", headers={header: "POST"})
    assert response.status_code == 200 and "items" in response.json()


def raw(plane: ControlPlane, request: bytes) -> bytes:
    """Bytes as they are, on a connection of their own; what came back until the server hung up or was done."""
    host, port = plane.url.rsplit("/", 1)[1].split(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=2) as connection:
        try:
            connection.sendall(request)
            while part := connection.recv(65_536):
                answer += part
        except (ConnectionResetError, BrokenPipeError, TimeoutError):
            pass  # it hung up, or waits for what will never come
    return answer


def head(plane: ControlPlane, *lines: str, start: str = "POST /v1/projects/default/jobs HTTP/1.1") -> bytes:
    fixed = (start, "Host: 127.0.0.1", f"Authorization: Bearer {plane.token}", "Content-Type: application/json")
    return "\r\n".join((*fixed, *lines, "Connection: close", "", "")).encode("latin-1")


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 99999999999999999999999",),
        ("Content-Length: " + "9" * 5_000,),
        ("Content-Length: -1",),
        ("Content-Length: +2",),
        ("Content-Length: 2", "Content-Length: 3"),
        ("Content-Length: 2", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked, chunked",),
        ("Transfer-Encoding: gzip",),
        ("Host: evil.example", "Content-Length: 2"),
        ("Authorization: Bearer x", "Content-Length: 2"),
        ("Authorization: Bearer \x00", "Content-Length: 2"),
        ("X: " + "y" * 1_000_000, "Content-Length: 2"),
        tuple(f"X-{number}: y" for number in range(100_000)),
        ("Idempotency-Key: \xff\xfe", "Content-Length: 2"),
        ("No colon here", "Content-Length: 2"),
    ],
    ids=lambda lines: repr(lines[0][:40]),
)
def test_head_that_lies_is_refused_and_the_server_goes_on(cloud_process: ControlPlane, lines: tuple[str, ...]) -> None:
    answer = raw(cloud_process, head(cloud_process, *lines) + b"{}")
    statuses = [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3})", answer)]
    assert len(statuses) <= 1, answer[:500]
    assert all(400 <= status < 500 for status in statuses), answer[:500]
    assert b"Traceback" not in answer and str(cloud_process.home).encode() not in answer
    assert httpx.get(f"{cloud_process.url}/readyz", trust_env=False, verify=False).status_code == 200


@pytest.mark.parametrize(
    "target",
    ["http://evil.example/v1/projects", "//evil.example/v1/projects", "*", "/v1/projects#x", "/../v1/projects"],
)
def test_odd_request_target_is_no_way_around_the_door(cloud_process: ControlPlane, target: str) -> None:
    request = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
    answer = raw(cloud_process, request)
    assert re.match(rb"HTTP/1\.1 4\d\d", answer), answer[:200]


def test_client_that_leaves_in_the_middle_of_a_body_is_no_incident(
    http: httpx.Client, cloud_process: ControlPlane
) -> None:
    half = head(cloud_process, "Content-Length: 100") + b"{"
    upload = head(cloud_process, "Content-Length: 100", start=f"PUT /v1/projects/default/blobs/{ZERO} HTTP/1.1") + b"x"
    host, port = cloud_process.url.rsplit("/", 1)[1].split(":")
    for request in (half, upload) * 3:
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(request)
    assert http.get("/v1/projects").status_code == 200
    assert "incident" not in cloud_process.log.read_text("utf-8", "replace")


def test_log_of_the_server_holds_no_trace_and_no_token(cloud_process: ControlPlane) -> None:
    text = cloud_process.log.read_text("utf-8", "replace")
    assert "Traceback" not in text
    assert cloud_process.token not in text
