"""Decorated functions: ``@skyloom.function(cpus=2)`` makes ``f.remote(…)`` run as a job and ``f.map(inputs)`` as an array of them.

The file that defines the function is uploaded and imported in the job; arguments and result are JSON. Nothing is pickled.
"""

import contextlib
import inspect
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, overload

import msgspec

from skyloom.core.errors import InvalidInput, NotFound
from skyloom.core.resources import Resources, parse_bytes
from skyloom.sdk import mapping
from skyloom.sdk.client import Client
from skyloom.sdk.connect import connect
from skyloom.sdk.service import DecoratedFunction
from skyloom.settings import TaskEnvironment

P = ParamSpec("P")
R = TypeVar("R")


class NotUploadable(InvalidInput):
    """The function is not defined at the top of a file, so it cannot be found again in a job."""


class CalledOnImport(InvalidInput):
    """The job of a call imports the file of its function, and that makes a call again."""


class ResultMissing(NotFound):
    """A call has succeeded, and what it returned is not there any more."""


class RemoteCall(Generic[R]):
    """A call that runs as a job."""

    def __init__(self, cloud: Client, job_id: str) -> None:
        self._cloud = cloud
        self.job_id = job_id

    def result(self, timeout_s: float | None = None) -> R:
        """Wait for the call and return its result, as JSON gives it back. Raises `JobFailed`, `ResultMissing`, ``TimeoutError``."""
        self._cloud.jobs.finish(self.job_id, timeout_s=timeout_s)
        left = self._cloud.jobs.result(self.job_id)
        if not left.ready:
            raise ResultMissing(
                f"Job {self.job_id} succeeded, and its result is gone with the folder of its task.",
                next_action=f"Call it again. Where it ran: skyloom job show {self.job_id}.",
            )
        result: R = msgspec.json.decode(left.result_json)
        return result


class Function(DecoratedFunction, Generic[P, R]):
    """A function that can run here (``f(…)``) or as a job (``f.remote(…)``)."""

    def __init__(self, body: Callable[P, R], options: dict[str, Any]) -> None:
        self.body: Callable[P, R] = body
        self.options = options
        self.__doc__ = body.__doc__
        self.__name__ = body.__name__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.body(*args, **kwargs)

    def local(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the call here."""
        return self.body(*args, **kwargs)

    def with_options(self, **options: Any) -> "Function[P, R]":
        """The same function with other options: fields of `JobSpec`, and ``key``, by which a repeated call gives the same job."""
        return Function(self.body, {**self.options, **options})

    def spawn(self, *args: P.args, **kwargs: P.kwargs) -> RemoteCall[R]:
        """Start the call as a job and return at once."""
        cloud = connect()
        job = cloud.jobs.call(self._source(), self.body.__name__, args, kwargs, **self.options)
        return RemoteCall(cloud, job.job.id)

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the call as a job and return its result."""
        return self.spawn(*args, **kwargs).result()

    def map(
        self,
        *inputs: Iterable[Any],
        ordered: bool = True,
        chunk_size: int | None = None,
        max_parallel: int = 0,
        return_failures: bool = False,
        progress: bool | None = None,
    ) -> Iterator[R]:
        """Run the function once for each input (several iterables are taken side by side), as one array; yield the results.

        The first failure is raised as `RemoteFailure`, with the index of its input and the traceback from there. Who stops early, by
        an error or a ``break``, stops what still runs, unless the function has a ``key`` (`with_options`): then the same map can be
        asked for again, also after a crash here, and goes on where it was. ``max_retries`` tries again what failed, input by input.

        Args:
            ordered: yield in the order of the inputs; otherwise as they come.
            chunk_size: inputs that one task does, one after the other; by default so many that there are four tasks for each that the
                cloud can run at once, 200 at most; with a ``key`` always about 200, so that the same map is found again.
            max_parallel: so many tasks at a time at most.
            return_failures: yield a `RemoteFailure` in its place instead of raising it.
            progress: draw a bar on stderr; by default on a terminal.
        """
        calls = [{"args": args, "kwargs": {}} for args in zip(*inputs, strict=False)]
        if not calls:
            return iter(())
        cloud = connect()
        options = {name: value for name, value in self.options.items() if name != "key"}
        key = self.options.get("key")
        array_id, size = mapping.submit(
            cloud, self._source(), self.__name__, calls, chunk_size, max_parallel, key, options
        )
        bar = sys.stderr.isatty() if progress is None else progress
        title = f"{self.__name__} {array_id}"
        made = mapping.gather(
            cloud, array_id, len(calls), size, ordered=ordered, keep=key is not None, bar=bar, title=title
        )
        return _values(made, return_failures)

    def _source(self) -> Path:
        file = inspect.getsourcefile(self.body)
        if _is_imported_by_a_job(self.body.__globals__):
            raise CalledOnImport(
                f"{Path(file or '').name} calls {self.__name__} as a job while that job imports it.",
                next_action='Keep .remote(), .spawn() and .map() below if __name__ == "__main__":',
            )
        if file is None or self.body.__qualname__ != self.body.__name__ or not Path(file).is_file():
            raise NotUploadable(
                f"The function {self.body.__qualname__} is not at the top level of a file, which the job could import.",
                next_action="Move it to the top level of a .py file; from a notebook or a prompt, import it from there.",
            )
        return Path(file)


def _is_imported_by_a_job(module: dict[str, Any]) -> bool:
    """True while a job runs the body of that module, and not as its program."""
    if not TaskEnvironment.read().job_id or module["__name__"] == "__main__":
        return False
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals is module and frame.f_code.co_name == "<module>":
            return True
        frame = frame.f_back
    return False


def _values(outcomes: Generator[tuple[int, Any], None, None], return_failures: bool) -> Iterator[Any]:
    with contextlib.closing(outcomes):
        for _, outcome in outcomes:
            if isinstance(outcome, mapping.RemoteFailure) and not return_failures:
                raise outcome
            yield outcome


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
