"""The REST face from outside: who is let in, and what is refused before anything happens. Real sockets, a real server."""

import json
import re
from collections.abc import Iterator

import httpx
import pytest

from skyloom.core import digests
from skyloom.core.operation import Verb
from skyloom.faces.rest.app import GUARDED, OPEN
from skyloom.faces.rest.guard import MAX_JSON_BYTES
from skyloom.operations import OPERATIONS
from tests.control_plane import ControlPlane

DOORS = sorted([(kind.route.verb.value, kind.route.full_path) for kind in OPERATIONS] + list(GUARDED))
EVERY_DOOR = pytest.mark.parametrize(("verb", "path"), DOORS)
JSON = {"content-type": "application/json"}
SUBMIT = "/v1/projects/default/jobs"


@pytest.fixture
def http(cloud_process: ControlPlane) -> Iterator[httpx.Client]:
    """A stranger: no token."""
    # Nothing here has TLS, and to read the certificates of the world takes 20 ms a client.
    with httpx.Client(base_url=cloud_process.url, trust_env=False, verify=False, timeout=20) as client:
        yield client


@pytest.fixture
def owner(cloud_process: ControlPlane) -> dict[str, str]:
    return {"authorization": f"Bearer {cloud_process.token}"}


def concrete(path: str) -> str:
    digest = "sha256:" + "0" * 64
    return re.sub(r"{(\w+)}", lambda m: {"project": "default", "digest": digest}.get(m[1], "thing_1"), path)


def send(http: httpx.Client, verb: str, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    body = b"{}" if verb in ("POST", "PUT") else None
    return http.request(verb, concrete(path), content=body, headers={**(JSON if body else {}), **(headers or {})})


def job(**fields: object) -> dict[str, object]:
    return {"spec": {"entry": {"type": "command", "argv": ["true"]}, **fields}}


@EVERY_DOOR
def test_every_door_without_a_token_is_shut(http: httpx.Client, verb: str, path: str) -> None:
    response = send(http, verb, path)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"


@EVERY_DOOR
@pytest.mark.parametrize("header", ["Bearer wrong", "Basic b3duZXI6", "Bearer", "Bearer sky_task.x.1.0.forged"])
def test_every_door_with_a_wrong_token_is_shut(http: httpx.Client, verb: str, path: str, header: str) -> None:
    assert send(http, verb, path, {"authorization": header}).status_code == 401


@pytest.mark.parametrize("path", OPEN)
def test_open_routes_tell_nothing_about_anybody(http: httpx.Client, path: str, cloud_process: ControlPlane) -> None:
    response = http.get(path)
    assert response.status_code == 200
    assert cloud_process.token not in response.text
    assert str(cloud_process.home) not in response.text


def test_viewer_token_cannot_change_anything(http: httpx.Client, cloud_process: ControlPlane) -> None:
    with cloud_process.client() as cloud:
        secret = cloud.tokens.create("looker").secret
    for verb, path in DOORS:
        response = send(http, verb, path, {"authorization": f"Bearer {secret}"})
        admin = path.endswith(("/tokens", "/audit"))
        if verb in ("POST", "PUT", "DELETE") or admin:
            assert response.status_code in (403, 422), (verb, path)
            if response.status_code == 422:  # the body is looked at before the right; it must not have been carried out
                assert response.json()["category"] == "invalid"


def test_foreign_project_looks_like_an_absent_one(http: httpx.Client, cloud_process: ControlPlane) -> None:
    with cloud_process.client() as cloud:
        cloud.projects.create("theirs")
        secret = cloud.tokens.create("one-project").secret
    for verb, path in DOORS:
        if "{project}" not in path:
            continue
        headers = {"authorization": f"Bearer {secret}"}
        foreign = send(http, verb, path.replace("{project}", "theirs"), headers)
        absent = send(http, verb, path.replace("{project}", "nowhere"), headers)
        assert foreign.status_code == absent.status_code == 404, (verb, path)
        assert foreign.text.replace("theirs", "nowhere") == absent.text


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil.example:80"])
def test_wrong_host_is_refused(http: httpx.Client, owner: dict[str, str], host: str) -> None:
    response = http.get("/v1/projects", headers={**owner, "host": host})
    assert response.status_code in (400, 421)


def test_plain_text_body_is_refused(http: httpx.Client, owner: dict[str, str]) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        response = http.post(SUBMIT, content=json.dumps(job()), headers={**owner, "content-type": kind})
        assert response.status_code == 415


@pytest.mark.parametrize("path", ["models/blobs/versions", "datasets/blobs/clean", "endpoints/blobs/stop"])
def test_bounds_hold_for_a_thing_that_is_called_blobs(http: httpx.Client, owner: dict[str, str], path: str) -> None:
    place = f"/v1/projects/default/{path}"
    assert http.post(place, content=b"{}", headers={**owner, "content-type": "text/plain"}).status_code == 415
    chunks = (b" " * 2**20 for _ in range(MAX_JSON_BYTES // 2**20 + 2))
    assert http.post(place, content=chunks, headers={**owner, **JSON}).status_code == 413


@pytest.mark.parametrize("name", ["content-type", "authorization"])
def test_deciding_header_that_comes_twice_is_refused(http: httpx.Client, owner: dict[str, str], name: str) -> None:
    headers = {"host": "localhost", **owner, **JSON}
    request = http.build_request("POST", SUBMIT, content=b"{}", headers=[*headers.items(), (name, headers[name])])
    assert http.send(request).status_code == 400


def test_body_over_the_bound_is_refused(http: httpx.Client, owner: dict[str, str]) -> None:
    response = http.post(SUBMIT, content=b" " * (MAX_JSON_BYTES + 1), headers={**owner, **JSON})
    assert response.status_code == 413


def test_body_over_the_bound_without_a_length_is_refused(http: httpx.Client, owner: dict[str, str]) -> None:
    chunks = (b" " * 2**20 for _ in range(MAX_JSON_BYTES // 2**20 + 2))
    response = http.post(SUBMIT, content=chunks, headers={**owner, **JSON})
    assert response.status_code == 413


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("{", "jobs.submit"),
        ("[]", "jobs.submit"),
        ("{}", "spec"),
        (json.dumps({"spec": {}}), "entry"),
        (json.dumps(job(num_workers="two")), "$.spec.num_workers"),
        (json.dumps(job(num_workers=0)), "$.spec.num_workers"),
        (json.dumps(job(colour="red")), "colour"),
        (json.dumps(job(files={"../../etc/x": "sha256:" + "0" * 64})), "$.spec.files"),
        (json.dumps({"spec": {"entry": {"type": "command", "argv": []}}}), "$.spec.entry.argv"),
        (json.dumps({"spec": {"entry": {"type": "nonsense"}}}), "$.spec.entry"),
        ('{"spec": ' + "[" * 100_000 + "]" * 100_000 + "}", "jobs.submit"),
        ("\x00\xff", "jobs.submit"),
    ],
    ids=str,
)
def test_wrong_json_names_the_field(http: httpx.Client, owner: dict[str, str], body: str, named: str) -> None:
    response = http.post(SUBMIT, content=body.encode("latin-1"), headers={**owner, **JSON})
    assert response.status_code == 422
    assert named in response.json()["message"]
    assert response.json()["next_action"]


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "colour=red", "live=maybe"])
def test_wrong_query_is_refused(http: httpx.Client, owner: dict[str, str], query: str) -> None:
    response = http.get(f"{SUBMIT}?{query}", headers=owner)
    assert response.status_code == 422
    assert query.partition("=")[0] in response.json()["message"]


def test_every_answer_carries_the_headers_that_browsers_obey(http: httpx.Client, owner: dict[str, str]) -> None:
    for response in (http.get("/healthz"), http.get("/nowhere"), http.get("/v1/projects", headers=owner)):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert "access-control-allow-origin" not in response.headers


def test_unknown_id_looks_the_same_for_foreign_and_absent(
    http: httpx.Client, owner: dict[str, str], cloud_process: ControlPlane
) -> None:
    with cloud_process.client() as cloud:
        cloud.projects.create("neighbour")
    made = http.post("/v1/projects/neighbour/jobs", json=job(), headers=owner).json()["job"]["id"]
    absent = made[:-4] + "0000"
    for suffix in ("", "/logs", "/result"):
        answers = [http.get(f"{SUBMIT}/{job_id}{suffix}", headers=owner) for job_id in (made, absent)]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[0].text.replace(made, absent) == answers[1].text


def test_idempotency_key_replays_the_first_answer(http: httpx.Client, owner: dict[str, str]) -> None:
    headers = {**owner, "idempotency-key": "once"}
    first = http.post(SUBMIT, json=job(name="first"), headers=headers)
    again = http.post(SUBMIT, json=job(name="first"), headers=headers)
    assert first.status_code == again.status_code == 200
    assert first.content == again.content
    other = http.post(SUBMIT, json=job(name="second"), headers=headers)
    assert other.status_code == 409
    assert other.json()["code"] == "key_reused"


@pytest.mark.parametrize("key", ["", "x" * 201])
def test_idempotency_key_out_of_bounds_is_refused(http: httpx.Client, owner: dict[str, str], key: str) -> None:
    assert http.post(SUBMIT, json=job(), headers={**owner, "idempotency-key": key}).status_code == 422


def test_blob_goes_up_and_comes_back(http: httpx.Client, owner: dict[str, str]) -> None:
    content = bytes(range(256)) * 5_000
    place = f"/v1/projects/default/blobs/{digests.of_bytes(content)}"
    assert http.head(place, headers=owner).status_code == 404
    stored = http.put(place, content=content, headers=owner)
    assert stored.status_code == 201
    assert stored.json()["size_bytes"] == len(content)
    assert http.head(place, headers=owner).headers["content-length"] == str(len(content))
    assert http.get(place, headers=owner).content == content


def test_blob_with_the_wrong_digest_is_refused_and_not_kept(http: httpx.Client, owner: dict[str, str]) -> None:
    place = f"/v1/projects/default/blobs/{digests.of_bytes(b'promised')}"
    response = http.put(place, content=b"something else", headers=owner)
    assert response.status_code == 422
    assert http.get(place, headers=owner).status_code == 404


@pytest.mark.parametrize("name", ["sha256:xyz", "..%2f..%2ftoken", "md5:" + "0" * 32])
def test_blob_with_a_malformed_name_is_refused(http: httpx.Client, owner: dict[str, str], name: str) -> None:
    assert http.get(f"/v1/projects/default/blobs/{name}", headers=owner).status_code in (404, 422)


def test_openapi_describes_every_operation(http: httpx.Client) -> None:
    described = http.get("/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    for kind in OPERATIONS:
        entry = described["paths"][kind.route.full_path][kind.route.verb.value.lower()]
        assert entry["operationId"] == kind.route.name
        assert entry["security"] == [{"token": []}]
        named = {part["name"] for part in entry["parameters"] if part["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", kind.route.full_path))
        assert ("requestBody" in entry) == (kind.route.verb in (Verb.POST, Verb.PUT))
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(described)))
    assert references <= set(described["components"]["schemas"])


def test_metrics_count_what_was_asked(http: httpx.Client, owner: dict[str, str]) -> None:
    http.get("/v1/projects", headers=owner)
    text = http.get("/metrics", headers=owner).text
    assert 'skyloom_requests_total{operation="projects.list",status="200"}' in text
    assert 'skyloom_pool{part="capacity",resource="cpus"} 8.0' in text
    assert "skyloom_disk_free_bytes" in text


def test_method_that_no_door_has_is_refused(http: httpx.Client, owner: dict[str, str]) -> None:
    assert http.request("PATCH", SUBMIT, json={}, headers=owner).status_code == 405
    assert http.request("OPTIONS", SUBMIT, headers={**owner, **JSON}).status_code == 405
