"""Fetching the files of a mount from the control plane, with the task's own token, into a folder that is then only read.

Bytes are compared with their digest as they come. Of a Parquet file the rows are compared, by a process of the pool's Python that
can read it. The control plane may be away for a while, as for any other call of a task.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import ssl
import subprocess
import time
from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlsplit

from .building import say

_CHUNK_BYTES = 2**20
_PATIENCE_S = 300.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_TIMEOUT_S = 60.0
_CHECK = ("-m", "skyloom.recipes.check_rows")
_PASSING = (429, 502, 503, 504, 507)  # busy, full, or not there behind its proxy
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES)


class FetchFailed(Exception):
    """A file could not be had, or is not what it should be; the text says why."""


class _Passing(Exception):
    """Something that another try may mend."""


def fetch_all(folder: str, files: Sequence[Mapping[str, object]], environment: Mapping[str, str], base: str) -> int:
    """Fill a folder with the files of a mount; returns their bytes. Raises `FetchFailed`.

    Args:
        files: ``path``, ``digest``, ``route``, ``is_rows`` of each.
        environment: of the task, which says where the control plane is and holds the task's token.
        base: the pool's Python, which can read Parquet.
    """
    total = 0
    os.mkdir(folder, 0o700)
    for file in files:
        target = f"{folder}/{file['path']}"
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        total += _patiently(str(file["route"]), target, "" if file["is_rows"] else str(file["digest"]), environment)
        if file["is_rows"]:
            _check_rows(base, target, str(file["digest"]), environment)
    for place, folders, names in os.walk(folder):
        for name in names:
            os.chmod(f"{place}/{name}", 0o400)
        for name in folders:
            os.chmod(f"{place}/{name}", 0o500)
    os.chmod(folder, 0o500)
    return total


def _patiently(route: str, target: str, digest: str, environment: Mapping[str, str]) -> int:
    deadline, pause_s = time.monotonic() + _PATIENCE_S, _FIRST_PAUSE_S
    while True:
        try:
            return _fetch(route, target, digest, environment)
        except (OSError, http.client.HTTPException, _Passing) as error:
            if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
                raise FetchFailed(f"{route} cannot be kept on this machine: {error.strerror}") from None
            if time.monotonic() + pause_s > deadline:
                raise FetchFailed(f"the control plane does not give {route}: {error}") from None
        if pause_s == _FIRST_PAUSE_S:
            say(f"waiting for the control plane, to fetch {route}")
        time.sleep(pause_s)
        pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)


def _fetch(route: str, target: str, digest: str, environment: Mapping[str, str]) -> int:
    state, size = hashlib.sha256(), 0
    answer = _ask(route, environment)
    with open(target, "wb") as file:
        while chunk := answer.read(_CHUNK_BYTES):
            state.update(chunk)
            size += len(chunk)
            file.write(chunk)
    if answer.length:
        raise _Passing(f"its answer broke off after {size} bytes")
    if digest and digest != "sha256:" + state.hexdigest():
        raise FetchFailed(f"{route} is not what its digest says: it was damaged at rest or on the way")
    return size


def _ask(route: str, environment: Mapping[str, str]) -> http.client.HTTPResponse:
    """Send the request and return the answer once it is a good one; a proxy of the machine is not asked."""
    place = urlsplit(environment["SKYLOOM_URL"])
    assert place.hostname is not None
    if place.scheme == "https":
        context = ssl.create_default_context()
        server: http.client.HTTPConnection = http.client.HTTPSConnection(
            place.hostname, place.port, timeout=_TIMEOUT_S, context=context
        )
    else:
        server = http.client.HTTPConnection(place.hostname, place.port, timeout=_TIMEOUT_S)
    with open(environment["SKYLOOM_TOKEN_FILE"]) as file:
        headers = {"authorization": f"Bearer {file.read().strip()}"}
    path = f"{place.path.rstrip('/')}/v1/projects/{quote(environment['SKYLOOM_PROJECT'], safe='')}/{quote(route)}"
    server.request("GET", path, headers=headers)
    answer = server.getresponse()
    if answer.status == 200:
        return answer
    said = _message(answer.read(65536))
    if answer.status in _PASSING:
        raise _Passing(said)
    raise FetchFailed(f"the control plane refuses {route}: {said}")


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")


def _check_rows(base: str, file: str, digest: str, environment: Mapping[str, str]) -> None:
    """Compare the rows of a Parquet file with their digest, in a process that has the libraries for it."""
    argv = [base, *_CHECK, file, digest]
    done = subprocess.run(
        argv, env=dict(environment), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise FetchFailed(lines[-1][:300] if lines else f"the rows could not be checked (code {done.returncode})")
