"""The list of tokens: read again when it changes, and closed only for as long as it cannot be read."""

import hashlib
import hmac

import msgspec
import pytest

from skyloom.inference.access import AccessList, TokenRefused
from skyloom.rooms.serving.plan import Access
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


@pytest.mark.parametrize("num_tokens", [0, 1, 10_000])
def test_check_compares_one_digest_however_many_are_known(tmp_path, monkeypatch, num_tokens):
    path = tmp_path / "access.json"
    digests = tuple("sha256:" + hashlib.sha256(b"t%d" % number).hexdigest() for number in range(num_tokens))
    path.write_bytes(msgspec.json.encode(Access(digests=(*digests, *digests[: 10_000 - num_tokens]))))
    access, compared = AccessList(path), []
    plain = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda *pair: compared.append(pair) or plain(*pair))
    asked = [b"t%d" % number for number in range(0, num_tokens, 97)]
    for token in asked:
        access.check(b"Bearer " + token)
    for header in (b"Bearer nobody", b"Bearer t%d" % num_tokens, b"Bearer ", None):
        with pytest.raises(TokenRefused):
            access.check(header)
    assert len(compared) == len(asked) + 4


def test_digests_that_begin_alike_are_all_known(tmp_path):
    path, shown = tmp_path / "access.json", hashlib.sha256(b"mine").hexdigest()
    others = [f"sha256:{shown[:16]}{number:048x}" for number in range(3)]
    path.write_bytes(msgspec.json.encode(Access(digests=tuple(others[:2]))))
    access = AccessList(path)
    with pytest.raises(TokenRefused):
        access.check(b"Bearer mine")
    path.write_bytes(msgspec.json.encode(Access(digests=(*others, f"sha256:{shown}"))))
    access.refresh()
    access.check(b"bearer mine")
    with pytest.raises(TokenRefused):
        access.check(b"Basic mine")
