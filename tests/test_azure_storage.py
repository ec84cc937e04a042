"""Folders on Azure's storage: what a writer asks of Azure, and how people are told what is missing.

A local server answers as Azure's documents say; `test_real_stores.py` asks Azurite.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from raycodellm import azure, file_systems, retrying
from raycodellm.config import UserError
from raycodellm.files import Folder

ADDRESS = "abfss://box@me.dfs.core.windows.net"


class Server(ThreadingHTTPServer):
    """The container `box` of the account `me`, and the requests that changed something."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.changes: list[str] = []
        self.refuses = False


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._say(400)  # as Azure says that the account has no folders of its own

    def do_GET(self) -> None:
        names = "".join(f"<Blob><Name>{escape(name)}</Name></Blob>" for name in sorted(self.server.objects))
        self._say(200, f"<EnumerationResults><Blobs>{names}</Blobs><NextMarker/></EnumerationResults>".encode())

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.server.refuses:
            self.server.objects[self._name()] = content
        self.server.changes.append(f"{self.command} {self._name()}")
        self._say(201)

    def _name(self) -> str:
        return unquote(urlsplit(self.path).path.removeprefix("/me/box/"))

    def _say(self, status: int, content: bytes = b"") -> None:
        status, content = (403, b"") if self.server.refuses else (status, content)
        self.send_response(status)
        told = {"ETag": '"1"', "Last-Modified": formatdate(usegmt=True)}
        told |= {"Content-Type": "application/xml"} if content else {}
        for key, value in {**told, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as made:
        threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"http://127.0.0.1:{made.server_port}/me")
        monkeypatch.setenv("AZURE_STORAGE_KEY", "bm8ga2V5")
        file_systems.forget_buckets()
        yield made
        file_systems.forget_buckets()
        made.shutdown()


def test_a_file_on_azure_is_written_by_one_request_so_that_nobody_meets_an_empty_one(server: Server) -> None:
    folder = Folder(f"{ADDRESS}/lab/a b")
    folder.write_bytes("DONE 50%", b"done")
    (folder / "x?").write_bytes("y", memoryview(b"{}\n"))
    assert server.objects == {"lab/a b/DONE 50%": b"done", "lab/a b/x?/y": b"{}\n"}
    assert server.changes == ["PUT lab/a b/DONE 50%", "PUT lab/a b/x?/y"]
    assert folder.path == "box/lab/a b" and folder.filesystem is Folder(f"{ADDRESS}/other").filesystem


def test_the_file_system_that_ray_gets_holds_no_key(server: Server, monkeypatch) -> None:
    told = file_systems.for_ray(f"{ADDRESS}/lab/tune")
    assert told["storage_path"] == "box/lab/tune"
    sent = pickle.dumps(told)
    assert b"bm8ga2V5" not in sent
    monkeypatch.setenv("AZURE_STORAGE_KEY", "b3RoZXI=")  # of the process that it is sent to
    assert pickle.loads(sent)["storage_filesystem"].get_file_info("box/lab/tune/x").size is None
    assert file_systems.for_ray("s3://bucket/x") == {"storage_path": "s3://bucket/x"}


def test_a_storage_that_refuses_is_told_in_a_line_and_not_asked_again(server: Server, monkeypatch) -> None:
    folder = Folder(f"{ADDRESS}/lab")
    folder.filesystem  # noqa: B018 - opened while it answers
    server.refuses = True
    for ask in (lambda: folder.write_bytes("x", b"1"), lambda: folder.list()):
        with pytest.raises(OSError, match="403") as refused:
            ask()
        assert not retrying.is_passing(refused.value)
    with pytest.raises(UserError, match=r"cannot be written \(Azure Error: \[\] 403 .*are its credentials set") as told:
        folder.check_writable("--storage")
    assert len(str(told.value)) <= 280
    file_systems.forget_buckets()
    for key, words in (("no key", "Base64"), ("", "not permitted")):
        monkeypatch.setenv("AZURE_STORAGE_KEY", key)
        with pytest.raises(UserError, match=rf"^{ADDRESS}: may not be asked \(.*{words}.*set AZURE_STORAGE_KEY"):
            Folder(f"{ADDRESS}/lab").list()


@pytest.mark.parametrize(
    ("address", "container"),
    [
        (f"{ADDRESS}/a/b", ("box", "me", "core.windows.net")),
        ("abfs://box@me.blob.core.chinacloudapi.cn", ("box", "me", "core.chinacloudapi.cn")),
        (f"{ADDRESS}/a?enable_tls=false", None),  # pyarrow's own options
        ("abfss://me.blob.core.windows.net/box/a", None),
        ("s3://box@me.dfs.core.windows.net/a", None),
    ],
)
def test_an_address_on_azure_names_a_container_and_an_account(address: str, container: tuple | None) -> None:
    assert azure.container_of(address) == (None if container is None else azure.Container(*container))
