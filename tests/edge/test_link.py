"""Calling a cloud that is none, is broken, or loses its answer: a clear word, bounded memory, and the same question again."""

import datetime
import http.server
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from skyloom.core.errors import SkyloomError
from skyloom.edge import link as links
from skyloom.edge.home import CodeUnreadable, Home, JoinedAlready
from skyloom.edge.link import AddressUnreadable, AuthorityUnreadable, CloudLink, LinkDown
from skyloom.rooms.devices.messages import JoinDevice
from skyloom.rooms.devices.model import JoinCodeUsed
from tests.rooms.devices.fleet_room import FleetRoom

ASK = JoinDevice(device="dev_1", nonce="0" * 32)


@contextmanager
def answering(answer, certificate: Path | None = None) -> Iterator[str]:
    """A server on loopback that answers each POST with what ``answer(headers, body)`` gives: a status and bytes, or None to hang up."""

    class Door(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            made = answer(self.headers, body)
            if made is None:
                self.close_connection = True
                return
            self.send_response(made[0])
            self.send_header("content-length", str(len(made[1])))
            self.end_headers()
            self.wfile.write(made[1])

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    "answer",
    [None, (200, b"<html>"), (200, b"{}"), (500, b"oops"), (302, b""), (404, b'{"code":1}'), (200, b"x" * 5_000)],
)
def test_answer_that_is_none_of_a_cloud_is_a_link_that_is_down(answer, monkeypatch):
    monkeypatch.setattr(links, "_MAX_ANSWER_BYTES", 4_000)
    with answering(lambda headers, body: answer) as url, pytest.raises(LinkDown):
        CloudLink(url, "p", "t").ask(ASK)


def test_refusal_of_a_cloud_keeps_its_words():
    refusal = JoinCodeUsed("It was used.", next_action="Ask anew.").body()
    with (
        answering(lambda headers, body: (409, msgspec.json.encode(refusal))) as url,
        pytest.raises(JoinCodeUsed) as told,
    ):
        CloudLink(url, "p", "t").ask(ASK)
    assert (told.value.message, told.value.next_action) == ("It was used.", "Ask anew.")


@pytest.mark.parametrize(
    "url",
    ["", "localhost:1", "ftp://h", "http://", "http://u:p@h", "http://h?x=1", "http://h:99999", "http://h:x", "http://[::1",
     "http://h\r\nx: y", "http://" + "a" * 80 + ".de", "http://h#x"],
)  # fmt: skip
def test_address_that_is_none_is_refused(url):
    with pytest.raises(AddressUnreadable):
        CloudLink(url, "p", "t")


def test_file_that_is_cut_off_on_its_way_is_a_link_that_is_down_and_no_fault_of_the_file():
    with cutting() as url:
        pieces = []
        with pytest.raises(LinkDown, match="cut off"):
            pieces.extend(CloudLink(url, "p", "t").fetch("dev_1", "sha256:0", 0))
    assert b"".join(pieces) == b"half"


@contextmanager
def cutting() -> Iterator[str]:
    """A server that promises ten bytes, sends four and hangs up, as a proxy does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def once() -> None:
            with listener.accept()[0] as connection:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")

        thread = threading.Thread(target=once)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def test_certificates_that_are_none_are_said_to_be(tmp_path):
    (tmp_path / "empty.pem").write_text("nothing")
    for name in ("empty.pem", "missing.pem"):
        with pytest.raises(AuthorityUnreadable, match=name):
            CloudLink("https://127.0.0.1:1", "p", "t", authority=str(tmp_path / name))


def test_proxy_is_told_the_whole_address_and_of_tls_only_where_to():
    seen = []
    with answering(lambda headers, body: seen.append(headers["host"]) or (500, b"")) as proxy, pytest.raises(LinkDown):
        CloudLink("http://cloud.example:81/sky", "p", "t", proxy=proxy).ask(ASK)
    assert seen == ["cloud.example:81"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        link = CloudLink("https://cloud.example", "p", "t", proxy=f"http://127.0.0.1:{listener.getsockname()[1]}")

        def once() -> None:
            with listener.accept()[0] as connection:
                seen.append(connection.recv(65_536).split(b"\r\n")[0])

        thread = threading.Thread(target=once)
        thread.start()
        with pytest.raises(LinkDown):
            link.ask(ASK)
        thread.join()
    assert seen[1].startswith(b"CONNECT cloud.example:443 ")


@pytest.mark.parametrize("proxy", ["https://h:1", "http://h:1/path", "h:1"])
def test_proxy_that_is_none_is_refused(proxy):
    with pytest.raises(AddressUnreadable):
        CloudLink("http://h", "p", "t", proxy=proxy)


def test_join_code_with_a_line_break_is_none(tmp_path):
    with pytest.raises(CodeUnreadable):
        Home(tmp_path).join("sky_join.p.dev_1.x\nevil: 1", "http://127.0.0.1:9")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """A key and a certificate of its own for the name localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    content = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(content + made.public_bytes(serialization.Encoding.PEM))
    return path


def test_cloud_with_tls_is_believed_only_with_a_certificate_that_is_known_and_has_its_name(certificate):
    refusal = msgspec.json.encode(JoinCodeUsed("It was used.", next_action="Ask anew.").body())
    with answering(lambda headers, body: (409, refusal), certificate) as url:
        port = url.rpartition(":")[2]
        with pytest.raises(JoinCodeUsed):
            CloudLink(f"https://localhost:{port}", "p", "t", authority=str(certificate)).ask(ASK)
        with pytest.raises(LinkDown, match="its certificate is not believed"):
            CloudLink(f"https://localhost:{port}", "p", "t").ask(ASK)
        with pytest.raises(LinkDown, match="its certificate is not believed"):
            CloudLink(f"https://127.0.0.1:{port}", "p", "t", authority=str(certificate)).ask(ASK)


def test_join_whose_answer_is_lost_is_asked_again_with_the_same_nonce_and_happens_once(tmp_path):
    room = FleetRoom()
    code = room.enrol("kiosk").code
    lose = [True]

    def cloud(headers, body):
        by = room.caller(headers["authorization"].removeprefix("Bearer "))
        try:
            identity = room.do(JoinDevice(device=by.device_id, **msgspec.json.decode(body)), by)
        except SkyloomError as error:
            return 409, msgspec.json.encode(error.body())
        return None if lose.pop(0) else (200, msgspec.json.encode(identity))

    with answering(cloud) as url:
        home = Home(tmp_path / "home")
        with pytest.raises(LinkDown):
            home.join(code, url)
        lose.append(False)
        file = home.join(code, url)
        assert room.caller(file.token).device_id == file.device
        with pytest.raises(JoinedAlready):
            home.join(code, url)
        with pytest.raises(JoinCodeUsed):
            Home(tmp_path / "thief").join(code, url)
    assert (tmp_path / "home").stat().st_mode & 0o77 == 0
    assert (tmp_path / "home" / "device.json").stat().st_mode & 0o77 == 0
