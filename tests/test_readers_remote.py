"""Data on the Hugging Face hub and in object stores, against servers that speak their protocols on this machine."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ports import free_port
from reading import read, texts

from raycodellm import config, evaluation, tokens
from raycodellm.config import Source, UserError
from raycodellm.corpora import content, read_part, source_fingerprint
from raycodellm.corpora.inputs import Part
from raycodellm.corpora.listing import hub
from raycodellm.evaluation import Places
from raycodellm.evaluation.data.reading import read_data
from raycodellm.file_systems import forget_buckets
from raycodellm.files import Folder


def parquet(*rows: str, columns: Sequence[str] = ("text",)) -> bytes:
    """A file with the same rows in each column, cut into row groups and these into pages."""
    table, sink = pa.table(dict.fromkeys(columns, rows)), io.BytesIO()
    pq.write_table(table, sink, row_group_size=max(2, len(rows) // 2), write_batch_size=100, data_page_size=100)
    return sink.getvalue()


# ----------------------------------------------------------------------------------------------------------- the hub


class Hub(ThreadingHTTPServer):
    """As much of the hub's HTTP interface as listing and reading a data set takes."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files, self.sha = files, "a" * 40
        self.ranges: list[str] = []
        self.broken = False


class _Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        return

    def _say(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _entry(self, path: str) -> dict:
        data = self.server.files[path]
        oid = hashlib.sha1(data).hexdigest()
        return {"type": "file", "path": path, "size": len(data), "oid": oid}

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.server.broken:
            self._say(503, b"")
        elif found := re.fullmatch(r"/api/datasets/team/set(?:/revision/([^/]+))?", path):
            if found[1] in (None, "main", "v1", self.server.sha):
                self._say(200, json.dumps({"id": "team/set", "sha": self.server.sha, "siblings": []}).encode())
            else:
                self._say(404, b"{}", X_Error_Code="RevisionNotFound")
        elif path.startswith(f"/api/datasets/team/set/tree/{self.server.sha}"):
            self._say(200, json.dumps([self._entry(name) for name in self.server.files]).encode())
        elif path.startswith(f"/datasets/team/set/resolve/{self.server.sha}/"):
            self._file(path.split(self.server.sha + "/")[1])
        elif path.startswith("/api/datasets/team/closed"):
            self._say(403, b"{}", X_Error_Code="GatedRepo")
        else:
            self._say(404, b"{}", X_Error_Code="RepoNotFound")

    do_HEAD = do_GET

    def _file(self, name: str) -> None:
        data = self.server.files[name]
        asked = self.headers.get("Range")
        if asked is None:
            self._say(200, data, ETag=self._entry(name)["oid"], X_Repo_Commit=self.server.sha)
            return
        self.server.ranges.append(f"{name} {asked}")
        first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", asked).groups())
        self._say(206, data[first : last + 1], Content_Range=f"bytes {first}-{last}/{len(data)}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        asked = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
        entries = [self._entry(name) for name in asked if name in self.server.files]
        self._say(200, json.dumps(entries).encode(), Content_Type="application/json")


CARD = (
    "---\nconfigs:\n- config_name: en\n  default: true\n  data_files: en/*.parquet\n- config_name: de\n  data_files:\n"
)
CARD += "  - {split: train, path: de/train.jsonl}\n  - {split: test, path: de/test.jsonl}\n---\n"
FILES = {
    "README.md": CARD.encode(),
    "en/0.parquet": parquet(*(f"en {i}" for i in range(5))),
    "de/train.jsonl": b'{"text": "de train"}\n',
    "de/test.jsonl": b'{"text": "de test"}\n',
}


@pytest.fixture
def served(tmp_path):
    """A hub with one data set, and a way to ask it as a program of its own would: the endpoint is read at import."""
    server = Hub(dict(FILES))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


PROGRAM = """
import json, sys, time
from raycodellm.config import Source, UserError
from raycodellm.corpora import *
sleep, waits = time.sleep, []
time.sleep = lambda seconds: waits.append(seconds) or sleep(seconds)
began = time.process_time()
try:
    source = Source(**json.loads(sys.argv[1]))
    inputs = source_fingerprint(source)
    rows = [row.text for row in read_in_process(source, inputs) if isinstance(row, Document)]
    said = [rows, inputs.fingerprint, [file.uri for file in inputs.files]]
except UserError as error:
    said = str(error)
print(json.dumps([said, sum(waits) + time.process_time() - began]))
"""
"""Tells the seconds of work and of waits between tries: not those that a busy machine adds."""


def ask(endpoint: str, tmp_path: Path, **fields: object):
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", PROGRAM, json.dumps({"kind": "text", **fields})]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.strip().split("\n")[-1])


@pytest.mark.slow
def test_a_hub_data_set_is_read_by_ranges_by_subset_split_and_path(served, tmp_path):
    endpoint = f"http://127.0.0.1:{served.server_port}"
    (rows, before, uris), _ = ask(endpoint, tmp_path, path="hf://datasets/team/set")
    assert rows == [f"en {i}" for i in range(5)] and served.ranges
    assert uris == [f"hf://datasets/team/set@{'a' * 40}/en/0.parquet"]
    served.sha = "b" * 40  # another commit that changed none of these files
    served.files["note.md"] = b"x"
    (rows, after, _), _ = ask(endpoint, tmp_path, path="hf://datasets/team/set@v1/en")
    assert rows == [f"en {i}" for i in range(5)]
    (_, after, _), _ = ask(endpoint, tmp_path, path="hf://datasets/team/set@main")
    assert after == before
    wanted = {"path": "hf://datasets/team/set", "subset": "de", "split": "test"}
    assert ask(endpoint, tmp_path, **wanted)[0][0] == ["de test"]
    assert ask(endpoint, tmp_path, path="hf://datasets/team/set/de/*.jsonl")[0][0] == ["de test", "de train"]
    assert ask(endpoint, tmp_path, path="hf://datasets/team/set/de/train.jsonl")[0][0] == ["de train"]


FIELDS = ("text", "more", "most")
ROWS = [f"{number}" for number in range(1500)]  # of which a batch takes a part, so that some are read later than others
LINES = "\n".join(json.dumps(dict.fromkeys(FIELDS, one)) for one in ROWS).encode()


def arrow(*rows: str, new=pa.ipc.new_file) -> bytes:
    table, sink = pa.table(dict.fromkeys(FIELDS, rows)), io.BytesIO()
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=len(rows) // 2)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.parquet", parquet(*ROWS, columns=FIELDS)),
        ("a.arrow", arrow(*ROWS)),
        ("stream.arrow", arrow(*ROWS, new=pa.ipc.new_stream)),
        ("a.jsonl", LINES),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)),  # with a time in it, each process would name the test otherwise
    ],
)
def test_no_thread_of_arrows_holds_a_file_of_the_hub(monkeypatch, name, data):
    """A thread that holds an object of Python's when Python ends aborts the process, once in some hundred runs."""
    holders = set()

    class Piece(bytes):
        def __del__(self) -> None:
            holders.add(threading.current_thread())

    class OfHub(io.BytesIO):
        def read(self, *size: int) -> bytes:
            holders.add(threading.current_thread())
            return Piece(super().read(*size))

    class HubFiles:
        def open_input_file(self, path: str) -> pa.NativeFile:
            return pa.PythonFile(OfHub(data), mode="r")

    monkeypatch.setattr(content, "open_bucket", lambda uri: (HubFiles(), uri))
    part = Part(f"hf://datasets/team/set@{'a' * 40}/{name}", name, len(data), 0, len(data))
    source = Source(kind="text", path="hf://datasets/team/set", text_field=FIELDS)
    rows = [row.text for row in read_part(part, source, name.split(".")[1])]
    assert rows == ["\n".join([one] * len(FIELDS)) for one in ROWS]
    assert holders == {threading.current_thread()}


@pytest.mark.slow
def test_what_the_hub_lacks_or_refuses_is_said_with_what_would_work(served, tmp_path):
    endpoint = f"http://127.0.0.1:{served.server_port}"
    for path, message in {
        "hf://datasets/team/none": "no such data set on http://127.0.0.1",
        "hf://datasets/team/set@v9": "has no such revision",
        "hf://datasets/team/set/fr": "no such file or folder in the data set team/set; it holds README.md, en, de",
        "hf://datasets/team/closed": "then set HF_TOKEN",
        "hf://models/team/set": "write hf://datasets/<owner>/<name>",
    }.items():
        said, seconds = ask(endpoint, tmp_path, path=path)
        assert message in said and seconds < 20, (path, said)


@pytest.mark.parametrize(
    "hub", ["a closed port", *(pytest.param(one, marks=pytest.mark.slow) for one in ("no host", "broken"))]
)
def test_without_a_network_the_error_comes_within_seconds_and_says_what_to_do(served, tmp_path, hub):
    served.broken = True
    broken = f"http://127.0.0.1:{served.server_port}"
    with socket.socket() as deaf:  # its port is taken, and nothing listens
        deaf.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        url = {"a closed port": closed, "no host": "http://no.such.host.invalid", "broken": broken}[hub]
        said, seconds = ask(url, tmp_path, path="hf://datasets/team/set")
    assert "cannot be reached" in said and "hf download" in said and seconds < 20, said


def test_an_error_that_is_not_the_networks_is_not_explained_away():
    error = KeyError("a mistake")
    assert hub._explained("hf://datasets/a/b", error) is error


# -------------------------------------------------------------------------------------------------------- object stores


@pytest.fixture(scope="module")
def s3():
    """A local S3 server with the bucket `data`, and the environment that points at it."""
    pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in environment}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        os.environ.update(environment)
        forget_buckets()
        try:
            deadline = time.monotonic() + 300
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline and server.poll() is None, "the S3 server did not start"
                    time.sleep(0.1)
            client = boto3.client("s3")
            client.create_bucket(Bucket="data")
            yield client
        finally:
            server.terminate()
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
            forget_buckets()


@pytest.mark.slow
def test_a_source_is_listed_and_read_from_s3(s3):
    s3.put_object(Bucket="data", Key="set/train-00000-of-00001.parquet", Body=parquet("a", "b", "c"))
    s3.put_object(Bucket="data", Key="set/test-00000-of-00001.parquet", Body=parquet("no"))
    s3.put_object(Bucket="data", Key="lines/a.jsonl", Body=b'{"text": "one"}\n{"text": "two"}\n')
    s3.put_object(Bucket="data", Key="lines/cut.jsonl.gz", Body=b"\x1f\x8b\x08 no gzip")
    assert texts("s3://data/set") == ["a", "b", "c"]
    assert texts("s3://data/set", split="test") == ["no"]
    assert texts("s3://data/lines/*.jsonl") == ["one", "two"]
    assert read(Source(kind="text", path="s3://data/lines"))[1] == {"unreadable file": 1}
    inputs = source_fingerprint(Source(kind="text", path="s3://data/lines/a.jsonl"))
    assert source_fingerprint(Source(kind="text", path="s3://data/lines/a.jsonl")) == inputs
    time.sleep(1.1)  # the store's clock has seconds
    s3.put_object(Bucket="data", Key="lines/a.jsonl", Body=b'{"text": "one"}\n{"text": "six"}\n')
    assert source_fingerprint(Source(kind="text", path="s3://data/lines/a.jsonl")).fingerprint != inputs.fingerprint


@pytest.mark.slow
def test_copies_of_evaluation_data_are_found_and_read_on_s3(s3):
    places = Places(None, "s3://data/copies")
    with pytest.raises(UserError, match=r"evaluation\.data: there is no folder s3://data/copies"):
        evaluation.find_data(["sciq"], places)
    s3.put_object(Bucket="data", Key="copies/allenai/sciq/test.jsonl.gz", Body=gzip.compress(b'{"support": "yes"}\n'))
    (source,) = evaluation.find_data(["sciq"], places)
    assert str(source) == "s3://data/copies/allenai/sciq/test.jsonl.gz" and source.copy is not None
    assert read_data(source.copy, source.data_set)["test"].to_list() == [{"support": "yes"}]
    assert len(evaluation.task_content("sciq", places)[-1][2][0][1][0]) == 32


@pytest.mark.slow
def test_a_missing_bucket_or_key_and_a_dead_server_are_said(s3, monkeypatch):
    with pytest.raises(UserError, match="no such object or folder, or no such bucket"):
        source_fingerprint(Source(kind="text", path="s3://none/x"))
    with pytest.raises(UserError, match="no such object or folder"):
        source_fingerprint(Source(kind="text", path="s3://data/none"))


@pytest.mark.slow
def test_token_stores_and_tokenizer_are_written_to_s3_and_found_there_again(s3, sweep_text):
    text = "\n".join(f"Line {i} of a text about nothing at all." for i in range(3000))
    s3.put_object(Bucket="data", Key="books/a.txt", Body=text.encode())
    sweep_text = sweep_text.replace('"builtin:python-prose", limit_documents: 200', '"s3://data/books"')
    sweep_text = sweep_text.replace("limit_documents: 40", "limit_documents: 4")
    import yaml

    values = yaml.safe_load(sweep_text)
    values["stages"][0].update(code_ratio=0.5, schedule="constant")
    sweep = config.Sweep.model_validate(values)
    storage = Folder("s3://data/storage")
    prepared = tokens.prepare(sweep, storage)
    store = prepared.stores["prose"]
    assert store.manifest.num_documents == 1 and store.manifest.num_tokens > 10_000
    states: list[tuple[str, str]] = []
    again = tokens.prepare(sweep, storage, lambda progress: states.append((progress.source, progress.state)))
    assert set(states) == {(name, "reused") for name in sweep.sources}
    assert again.stores["prose"].manifest == store.manifest
    listed = s3.list_objects_v2(Bucket="data", Prefix="storage/")["Contents"]
    names = {entry["Key"].split("/")[-1] for entry in listed}
    assert {"manifest.json", "tokenizer.json"} <= names


@pytest.mark.slow
def test_a_folder_on_s3_behaves_as_one_on_disk(s3, tmp_path):
    for folder in (Folder("s3://data/deep/one"), Folder(str(tmp_path / "one"))):
        assert folder.list() == [] and not folder.exists() and not folder.exists("a.json")
        folder.write_json("a.json", {"a": 1})
        (folder / "deep").write_bytes("b", b"bytes")
        folder.write_table("t.parquet", pa.table({"x": [1]}))
        assert folder.list() == ["a.json", "deep", "t.parquet"] and folder.exists() and folder.exists("a.json")
        assert folder.read_json("a.json") == {"a": 1} and folder.read_table("t.parquet").num_rows == 1
        target = tmp_path / f"down-{folder.name}-{len(folder.uri)}"
        folder.download(target)
        assert (target / "deep" / "b").read_bytes() == b"bytes"
        (folder / "up").upload(target)
        assert (folder / "up" / "deep").read_bytes("b") == b"bytes"
        folder.delete("deep")
        folder.delete("nothing")
        assert folder.list() == ["a.json", "t.parquet", "up"]
        folder.delete()
        assert folder.list() == []
        with pytest.raises(FileNotFoundError):
            folder.read_bytes("a.json")
