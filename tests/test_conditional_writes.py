"""Writes under a condition as S3, Google's storage and Azure's answer them: another writer's file is never lost.

A local server answers as the documents of the stores say: Google's with generations and 412, and 429 to a second
writing within a second; Azure's with 409 for a file that exists and 412 for one that has changed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from obstore.store import AzureStore

from raycodellm import conditional_writes
from raycodellm.conditional_writes import Changed, ConditionalFile, Unavailable, conditional_file
from raycodellm.files import Folder

RETRIES = conditional_writes._RETRIES


class Server(ThreadingHTTPServer):
    """One file, its number of writings, and the next answers that are errors."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content: bytes | None = None
        self.writings = 0
        self.errors: list[int] = []
        self.tells_generation = True
        self.conditions: list[str] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self._answer(404 if self.server.content is None else 200, self.server.content or b"")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(self.server.errors.pop(0) if self.server.errors else self._refusal(), b"", body)

    def _refusal(self) -> int:
        """201, or the store's answer where the condition does not hold."""
        server, headers = self.server, self.headers
        version = server.writings if server.content is not None else 0
        generation, match, none_match = (
            headers[name] for name in ("x-goog-if-generation-match", "If-Match", "If-None-Match")
        )
        server.conditions.append(str(generation or match or none_match))
        if generation is not None:
            return 201 if int(generation) == version else 412
        if none_match is not None:
            return 201 if server.content is None else 409
        return 201 if match == f'"{version}"' else 412

    def _answer(self, status: int, content: bytes, written: bytes | None = None) -> None:
        if written is not None and status == 201:
            self.server.content, self.server.writings = written, self.server.writings + 1
        self.send_response(status)
        self.send_header("ETag", f'"{self.server.writings}"')
        if self.server.tells_generation:
            self.send_header("x-goog-generation", str(self.server.writings))
        self.send_header("Last-Modified", formatdate(usegmt=True))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(conditional_writes, "_BUSY_SECONDS", 0.0)
    with Server() as made:
        threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield made
        made.shutdown()


def on_google(server: Server) -> ConditionalFile:
    found = conditional_file(
        Folder(f"gs://anonymous@bucket/run?endpoint_override={server.address}&scheme=http"), "OWNER"
    )
    assert found is not None
    return found


def on_azure(server: Server) -> ConditionalFile:
    options = {"endpoint": f"http://{server.address}", "skip_signature": True}
    store = AzureStore("box", account_name="me", retry_config=RETRIES, client_options={"allow_http": True}, **options)
    return ConditionalFile(store, "run/OWNER", "abfss://box@me.dfs.core.windows.net/run/OWNER")


STORES = pytest.mark.parametrize("opened", [on_google, on_azure])
Opened = Callable[[Server], ConditionalFile]


@STORES
def test_of_two_writers_the_second_is_told_that_the_file_has_changed(server: Server, opened: Opened) -> None:
    mine, other = opened(server), opened(server)
    assert mine.read() is None
    first = mine.write(b"mine", None)
    with pytest.raises(Changed):
        other.write(b"other's", None)
    seen = other.read()
    assert seen is not None and seen.content == b"mine" and seen.version == first.version
    second = mine.write(b"mine again", first)
    with pytest.raises(Changed):
        other.write(b"other's", seen)
    assert server.content == b"mine again" and mine.write(b"the third", second).content == b"the third"
    server.content = None  # given back meanwhile
    with pytest.raises(Changed):
        mine.write(b"the fourth", second)


@STORES
@pytest.mark.slow
def test_a_store_that_takes_one_writing_a_second_is_asked_again(server: Server, opened: Opened) -> None:
    server.errors = [429] * 3  # obstore gives up after three within a second
    written = opened(server).write(b"mine", None)
    assert server.content == b"mine" and server.writings == 1
    server.errors = [429] * 6
    with pytest.raises(ConnectionError, match="429"):
        opened(server).write(b"again", written)


@STORES
@pytest.mark.parametrize("status", [401, 403, 501])
def test_a_store_that_lets_nobody_write_under_a_condition_says_so(server: Server, opened: Opened, status: int) -> None:
    server.errors = [status] * 3
    with pytest.raises(Unavailable, match="OWNER"):
        opened(server).write(b"mine", None)


def test_a_store_that_tells_no_generation_has_no_conditions(server: Server) -> None:
    server.tells_generation = False
    file = on_google(server)
    file.write(b"mine", None)
    with pytest.raises(Unavailable, match="tells no version"):
        file.write(b"again", file.read())
    assert server.conditions == ["0"]


def test_an_address_on_azure_has_conditions_where_it_names_a_container() -> None:
    assert conditional_file(Folder("abfss://box@me.dfs.core.windows.net/run"), "OWNER") is not None
    assert conditional_file(Folder("abfss://me.blob.core.windows.net/box/run"), "OWNER") is None
