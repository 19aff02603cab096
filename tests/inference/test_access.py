"""The list of tokens: read again when it changes, and closed only for as long as it cannot be read."""

import pytest

from skyloom.inference.access import AccessList, TokenRefused
from tests.inference.serving import write_access


def test_list_that_could_not_be_read_for_a_moment_is_good_again_although_it_has_not_changed(
    tmp_path, monkeypatch, capsys
):
    path = tmp_path / "access.json"
    write_access(path, "secret")
    access = AccessList(path)
    access.check(b"Bearer secret")
    for trouble in ("stat", "read_bytes"):
        path.touch()
        with monkeypatch.context() as broken:
            broken.setattr(type(path), trouble, lambda *_, **__: (_ for _ in ()).throw(OSError(24, "no descriptors")))
            known = access.version
            access.refresh()
            access.refresh()
            assert access.version == known + 1  # once: what was let in is asked again
            with pytest.raises(TokenRefused):
                access.check(b"Bearer secret")
        access.refresh()
        access.check(b"Bearer secret")
    assert capsys.readouterr().err.count("every token is refused") == 2
