"""Decorated functions: ``@skyloom.function(cpus=2)`` makes ``f.remote(…)`` run as a job.

The file that defines the function is uploaded and imported in the job; arguments and result are JSON. Nothing is pickled.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, overload

import msgspec

from skyloom.core.errors import InvalidInput
from skyloom.core.resources import Resources, parse_bytes
from skyloom.sdk.client import Client
from skyloom.sdk.connect import connect

P = ParamSpec("P")
R = TypeVar("R")


class NotUploadable(InvalidInput):
    """The function is not defined at the top of a file, so it cannot be found again in a job."""


class RemoteCall(Generic[R]):
    """A call that runs as a job."""

    def __init__(self, cloud: Client, job_id: str) -> None:
        self._cloud = cloud
        self.job_id = job_id

    def result(self, timeout_s: float | None = None) -> R:
        """Wait for the call and return its result, as JSON gives it back. Raises `JobFailed`, ``TimeoutError``."""
        self._cloud.jobs.finish(self.job_id, timeout_s=timeout_s)
        return msgspec.json.decode(self._cloud.jobs.result(self.job_id).result_json)  # type: ignore[no-any-return]


class Function(Generic[P, R]):
    """A function that can run here (``f(…)``) or as a job (``f.remote(…)``)."""

    def __init__(self, body: Callable[P, R], options: dict[str, Any]) -> None:
        self._body = body
        self._options = options
        self.__doc__ = body.__doc__
        self.__name__ = body.__name__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._body(*args, **kwargs)

    def spawn(self, *args: P.args, **kwargs: P.kwargs) -> RemoteCall[R]:
        """Start the call as a job and return at once."""
        cloud = connect()
        job = cloud.jobs.call(self._source(), self._body.__name__, args, kwargs, **self._options)
        return RemoteCall(cloud, job.job.id)

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the call as a job and return its result."""
        return self.spawn(*args, **kwargs).result()

    def _source(self) -> Path:
        file = inspect.getsourcefile(self._body)
        if file is None or self._body.__qualname__ != self._body.__name__ or not Path(file).is_file():
            raise NotUploadable(
                f"The function {self._body.__qualname__} is not at the top level of a file, which the job could import.",
                next_action="Move it to the top level of a .py file; from a notebook or a prompt, import it from there.",
            )
        return Path(file)


@overload
def function(body: Callable[P, R], /) -> Function[P, R]: ...


@overload
def function(
    *, cpus: float = 1.0, gpus: int = 0, memory: str = "1GiB", **options: Any
) -> Callable[[Callable[P, R]], Function[P, R]]: ...


def function(
    body: Callable[P, R] | None = None, /, *, cpus: float = 1.0, gpus: int = 0, memory: str = "1GiB", **options: Any
) -> Function[P, R] | Callable[[Callable[P, R]], Function[P, R]]:
    """Decorate a function to run it as a job: ``@function`` or ``@function(cpus=2)``.

    ``options`` are fields of `JobSpec`, and ``requirements=["scikit-learn"]``: packages that the job needs beside those of the pool.
    """
    resources = Resources(cpus=cpus, gpus=gpus, memory_bytes=parse_bytes(memory))

    def decorate(body: Callable[P, R]) -> Function[P, R]:
        return Function(body, {"resources": resources, "name": body.__name__, **options})

    return decorate if body is None else decorate(body)
