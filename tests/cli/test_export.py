"""Which revision an export takes, and what cannot be one."""

import msgspec
import pytest

from skyloom.cli.export import InvalidExport, chosen, with_service
from skyloom.core.resources import Resources
from skyloom.export.model import Target
from skyloom.export.parts import page
from skyloom.ports.environment import PythonEnvironment
from skyloom.rooms.registry.services import ServiceMethod, ServiceSpec
from skyloom.rooms.secrets.model import SecretUse
from skyloom.rooms.serving.model import Endpoint, EndpointState, EndpointStatus, Revision

DIGEST = "sha256:" + "0" * 64


def status(name: str = "reader") -> EndpointStatus:
    endpoint = Endpoint(
        id="ep_1", project="p", name=name, model="toy", revision=2, num_replicas=1, created_at=1.0, created_by="ann"
    )
    revisions = tuple(
        Revision(
            id=f"rev_{number}", project="p", endpoint_id="ep_1", number=number, model_version=f"version_{number}",
            version_label=str(number + 4), resources=Resources(cpus=0.5), files={"manifest.json": DIGEST}, created_at=1.0,
        )
        for number in (2, 1)
    )  # fmt: skip
    return EndpointStatus(endpoint=endpoint, state=EndpointState.READY, revisions=revisions)


def test_newest_revision_is_taken_or_the_one_that_is_named() -> None:
    newest, named = chosen(status(), 0, "", 1, 4), chosen(status(), 1, "r.example/x:9", 2, 2)
    assert (newest.revision, newest.version, newest.image) == (2, "6", "reader:2")
    assert (named.revision, named.version, named.image, named.max_replicas) == (1, "5", "r.example/x:9", 2)


def test_earlier_revision_of_another_model_is_exported_as_that_model() -> None:
    known = status()
    older = msgspec.structs.replace(known.revisions[1], model="old-toy")
    found = chosen(msgspec.structs.replace(known, revisions=(known.revisions[0], older)), 1, "", 1, 4)
    assert (found.model, found.version) == ("old-toy", "5")


def test_secrets_of_a_service_are_named_and_stay_behind() -> None:
    known = status()
    uses = (SecretUse(name="my-key", variable="KEY"), SecretUse(name="my-file"))
    given = msgspec.structs.replace(known.revisions[0], secrets=uses)
    found = chosen(msgspec.structs.replace(known, revisions=(given,)), 0, "", 1, 4)
    assert found.secrets == ("KEY", "SKYLOOM_SECRET_MY_FILE_FILE")
    assert "KEY, SKYLOOM_SECRET_MY_FILE_FILE" in page(found, Target.DOCKER, "")


def test_service_takes_its_packages_along_where_it_can_run() -> None:
    method = ServiceMethod(name="greet")
    service = ServiceSpec(entry="service/a.py", class_name="A", methods=(method,))
    packed = msgspec.structs.replace(service, python=PythonEnvironment(requirements="rapidfuzz==3.1", version="3.12"))
    found = with_service(chosen(status(), 0, "", 1, 4), packed, Target.DOCKER)
    assert (found.methods, found.packages, found.python) == (("greet",), "rapidfuzz==3.1", "3.12")
    with pytest.raises(InvalidExport, match="process of its own"):
        with_service(chosen(status(), 0, "", 1, 4), service, Target.LAMBDA)
    other = msgspec.structs.replace(service, python=PythonEnvironment(pyproject="[project]"))
    with pytest.raises(InvalidExport, match=r"pyproject\.toml"):
        with_service(chosen(status(), 0, "", 1, 4), other, Target.DOCKER)


@pytest.mark.parametrize(
    ("revision", "image", "least", "words"),
    [(9, "", 1, "no revision 9"), (0, "", 5, "At least 5"), (0, "Not An Image", 1, "image"), (0, "a; rm", 1, "image")],
)
def test_what_cannot_be_exported_is_named(revision: int, image: str, least: int, words: str) -> None:
    with pytest.raises(InvalidExport, match=words):
        chosen(status(), revision, image, least, 4)
