"""Folders on Google's storage, by Google's own client against a local server that answers as its documents say.

Google's storage knows objects alone. A folder is what the names of objects have in common, unless somebody has written
an object for the folder itself, whose name ends in a slash. Most tools write none.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from raycodellm import file_systems, retrying
from raycodellm.conditional_writes import Changed, conditional_file
from raycodellm.config import UserError
from raycodellm.corpora.listing.files import list_remote
from raycodellm.files import Folder
from raycodellm.pruning import listing

BUCKET = "/storage/v1/b/lab"


class Server(ThreadingHTTPServer):
    """The bucket `lab`: its objects by name, and the names that another process deletes after the next listing."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        """What the writer of an object tells of it, such as that it stands for a folder."""
        self.begun: list[str] = []
        """Names of uploads that have begun, by number."""
        self.gone_after_listing: list[str] = []
        self.refuses = 0
        """The status of each answer, where it is not 0."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def _read(self) -> bytes:
        url = urlsplit(self.path)
        self.place, self.query = url.path, {key: values[0] for key, values in parse_qs(url.query).items()}
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_GET(self) -> None:
        self._read()
        objects, name = self.server.objects, self._name()
        if self.place == BUCKET:
            self._say(200, {"name": "lab"})
        elif self.place == f"{BUCKET}/o":
            self._say(200, self._listed(self.query.get("prefix", ""), self.query.get("delimiter")))
            for gone in self.server.gone_after_listing:
                objects.pop(gone, None)
            self.server.gone_after_listing.clear()
        elif name not in objects:
            self._say(404)
        elif "alt" in self.query or not self.place.startswith(BUCKET):
            self._say(200, objects[name])
        else:
            self._say(200, self._told(name))

    def do_DELETE(self) -> None:
        self._read()
        self._say(404 if self.server.objects.pop(self._name(), None) is None else 204)

    def do_POST(self) -> None:
        body = self._read()
        if not self.place.startswith(f"/upload{BUCKET}/"):
            self._say(404)
        elif self.query["uploadType"] == "resumable":
            self.server.begun.append(self.query["name"])
            self._say(200, location=f"http://{self.headers['Host']}/upload/{len(self.server.begun) - 1}")
        else:  # parts between lines with a boundary: what is said of the object, its content
            _, told, content = body.split(b"\r\n\r\n")
            self.server.metadata[self.query["name"]] = json.loads(told.partition(b"\r\n--")[0])["metadata"]
            self._written(self.query["name"], content.rpartition(b"\r\n--")[0])

    def do_PUT(self) -> None:
        body = self._read()
        condition = self.headers["x-goog-if-generation-match"]
        if condition is None:
            self._written(self.server.begun[int(self.place.rpartition("/")[2])], body)
        elif (condition == "0") == (self._name() in self.server.objects):
            self._say(412)
        else:
            self._written(self._name(), body)

    def _name(self) -> str:
        return unquote(self.place.removeprefix(f"{BUCKET}/o/").removeprefix("/lab/"))

    def _written(self, name: str, content: bytes) -> None:
        self.server.objects[name] = content
        self._say(200, self._told(name))

    def _told(self, name: str) -> dict[str, object]:
        times = dict.fromkeys(("timeCreated", "updated"), "2026-01-01T00:00:00Z")
        size, metadata = str(len(self.server.objects[name])), self.server.metadata.get(name, {})
        kind = "storage#object"
        return {"kind": kind, "name": name, "bucket": "lab", "generation": "7", "size": size, **times} | {
            "metadata": metadata
        }

    def _listed(self, prefix: str, delimiter: str | None) -> dict[str, object]:
        items, prefixes = [], set()
        for name in sorted(self.server.objects):
            if not name.startswith(prefix):
                continue
            first, mark, rest = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
            if mark:
                prefixes.add(f"{prefix}{first}/")
            if not mark or (not rest and self.query.get("includeTrailingDelimiter") == "true"):
                items.append(self._told(name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}

    def _say(self, status: int, content: object = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        status, body = (self.server.refuses, b"{}") if self.server.refuses else (status, body)
        self.send_response(status)
        told = {"ETag": '"7"', "x-goog-generation": "7", "Last-Modified": formatdate(usegmt=True), **headers}
        for key, value in {**told, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as made:
        threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{made.server_port}")
        yield made
        file_systems.forget_buckets()
        made.shutdown()


def test_folders_without_an_object_of_their_own_are_listed_and_deleted(server: Server, tmp_path) -> None:
    folder = Folder("gs://lab/a b")
    assert folder.list() == [] and not folder.exists() and not folder.exists("stages")
    folder.prove_writable("--storage")
    assert server.objects == {}
    (folder / "stages" / "one").write_bytes("DONE", b"done")
    (folder / "stages" / "one" / "model").write_bytes("weights", b"12345")
    (folder / "stages" / "two%").make()
    folder.write_json("sweep.yaml", {"name": "x"})
    (folder / "stagesx").write_bytes("y", b"")
    assert folder.list() == ["stages", "stagesx", "sweep.yaml"] and (folder / "stages").list() == ["one", "two%"]
    assert (folder / "stages" / "one").list() == ["DONE", "model"] and (folder / "stages" / "one").exists("model")
    found = {one.path: one.is_folder for one in listing._entries(folder)}
    assert found == {"stages": True, "stagesx": True, "sweep.yaml": False}
    assert (folder / "stages" / "one" / "model").read_bytes("weights") == b"12345"
    (folder / "stages" / "one").download(tmp_path / "copy")
    assert (tmp_path / "copy" / "model" / "weights").read_bytes() == b"12345"
    assert [one.name for one in list_remote("gs://lab/a b/stages")] == ["one/DONE", "one/model/weights"]
    (folder / "stages").delete("one")
    assert (folder / "stages").list() == ["two%"] and "a b/stagesx/y" in server.objects
    folder.delete()
    assert server.objects == {} and not folder.exists()


def test_a_folder_of_which_another_process_deletes_a_file_is_deleted_all_the_same(server: Server) -> None:
    server.objects = {f"x/{number}": b"1" for number in range(8)}
    server.objects["xy"] = b"1"
    folder = Folder("gs://lab")
    folder.filesystem  # noqa: B018 - opened before the listing that is answered late
    server.gone_after_listing = ["x/2", "x/5"]
    file_systems.delete_folder(folder.filesystem, "lab/x")
    assert server.objects == {"xy": b"1"}


def test_of_two_who_write_a_file_first_one_is_told_that_it_exists(server: Server) -> None:
    mine, other = (conditional_file(Folder("gs://lab/x"), "OWNER") for _ in range(2))
    assert mine is not None and other is not None and mine.read() is None
    mine.write(b"mine", None)
    with pytest.raises(Changed):
        other.write(b"other's", None)
    assert server.objects == {"x/OWNER": b"mine"}


def test_a_storage_that_refuses_or_has_no_such_bucket_is_told_in_a_line_and_not_asked_again(server: Server) -> None:
    with pytest.raises(
        UserError, match=r"^--storage gs://elsewhere/x: cannot be written; there is no such bucket: make"
    ):
        Folder("gs://elsewhere/x").prove_writable("--storage")
    for status, words in (403, r"\(PERMISSION_DENIED: {}\); use credentials"), (401, r"\(UNAUTHENTICATED: "):
        server.refuses = status
        with pytest.raises(OSError) as refused:
            Folder("gs://lab/x").read_bytes("y")
        assert not retrying.is_passing(refused.value)
        with pytest.raises(UserError, match=f"cannot be written .*{words}") as told:
            Folder("gs://lab/x").prove_writable("--storage")
        assert len(str(told.value)) <= 280
