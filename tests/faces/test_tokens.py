"""Tokens from outside: a secret is shown to the one who asked, as often as he repeats his request, and is stored nowhere."""

import httpx
import pytest

from tests.control_plane import ControlPlane

TOKENS = "/v1/projects/default/tokens"


@pytest.fixture
def owner(cloud_process: ControlPlane) -> httpx.Client:
    return httpx.Client(
        base_url=cloud_process.url,
        headers={"authorization": f"Bearer {cloud_process.token}"},
        trust_env=False,
        verify=False,
        timeout=20,
    )


def test_secret_of_a_token_is_in_no_file_and_a_repeat_gives_it_again(
    owner: httpx.Client, cloud_process: ControlPlane
) -> None:
    ask = {"json": {"name": "robot", "role": "editor"}, "headers": {"idempotency-key": "make-robot"}}
    first, again = owner.post(TOKENS, **ask), owner.post(TOKENS, **ask)  # type: ignore[arg-type]
    assert first.status_code == 200
    assert first.content == again.content
    secret = first.json()["secret"].encode()
    files = [path for path in cloud_process.home.rglob("*") if path.is_file()]
    assert cloud_process.home / "skyloom.db" in files
    assert [path for path in [*files, cloud_process.log] if secret in path.read_bytes()] == []


def test_key_of_another_token_with_the_same_name_is_another_key(owner: httpx.Client) -> None:
    two = [owner.post(TOKENS, json={"name": "twin", "role": "admin"}).json()["secret"] for _ in range(2)]
    made = [
        owner.post(
            TOKENS, json={"name": "x"}, headers={"idempotency-key": "same", "authorization": f"Bearer {secret}"}
        ).json()["token"]["id"]
        for secret in two
    ]
    assert made[0] != made[1]


@pytest.mark.parametrize("label", ["run", "model", "endpoint", "user"])
def test_label_that_costs_are_told_by_cannot_be_set(owner: httpx.Client, label: str) -> None:
    spec = {"entry": {"type": "command", "argv": ["true"]}, "labels": {label: "somebody-else"}}
    files = {"train.py": "sha256:" + "0" * 64}
    for path, body in (
        ("jobs", {"spec": spec}),
        ("trainings", {"script": "train.py", "files": files, "labels": {label: "somebody-else"}}),
    ):
        response = owner.post(f"/v1/projects/default/{path}", json=body)
        assert (response.status_code, response.json()["code"]) == (422, "label_reserved")
