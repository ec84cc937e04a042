"""A local S3 server inside the test's process, which counts the requests that it answers by their kind."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs

import pytest

from raycodellm import conditional_writes, file_systems
from raycodellm.file_systems import forget_buckets

BUCKET = "data"


class Requests:
    """The requests since the server began, and their bytes in both directions."""

    def __init__(self, application: Callable[..., Any]) -> None:
        self._application = application
        self._lock = threading.Lock()
        self.kinds: Counter[str] = Counter()
        """GET, HEAD, LIST, PUT, COPY, DELETE, and others by their method."""
        self.log: list[str] = []
        """Kind and path of each, in order."""
        self.num_bytes = 0
        self.connections: set[str] = set()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        answer = self._application(environ, start_response)
        body = b"".join(answer)
        kind = self._kind(environ)
        with self._lock:
            self.kinds[kind] += 1
            prefix = parse_qs(environ["QUERY_STRING"]).get("prefix", [""])[0] if kind == "LIST" else ""
            self.log.append(f"{kind} {environ['PATH_INFO']}{prefix and '/' + prefix}")
            self.num_bytes += _length(environ) + (0 if kind == "HEAD" else len(body))
            self.connections.add(environ.get("REMOTE_PORT", ""))
        return [body]

    @staticmethod
    def _kind(environ: dict[str, Any]) -> str:
        method, query = environ["REQUEST_METHOD"], parse_qs(environ["QUERY_STRING"], keep_blank_values=True)
        if method == "GET" and "list-type" in query:
            return "LIST"
        if method == "PUT" and "HTTP_X_AMZ_COPY_SOURCE" in environ:
            return "COPY"
        return "PART" if {"uploads", "uploadId"} & set(query) else method

    @contextlib.contextmanager
    def of(self, event: dict[str, Any]) -> Iterator[None]:
        """Puts the requests of the body and their bytes into `event`."""
        kinds, num_bytes, start = self.kinds.copy(), self.num_bytes, len(self.log)
        yield
        event.update(kinds=dict(self.kinds - kinds), bytes=self.num_bytes - num_bytes, log=self.log[start:])


def _length(environ: dict[str, Any]) -> int:
    """Bytes that the request sends, without those that only cut it into pieces."""
    return int(environ.get("HTTP_X_AMZ_DECODED_CONTENT_LENGTH") or environ.get("CONTENT_LENGTH") or 0)


@functools.lru_cache(maxsize=64)
def open_patiently(uri: str, process: int) -> tuple[Any, str]:
    """As `file_systems._open_bucket`. But pyarrow asks again when an answer takes 3 s, as on a machine that stands
    still for a moment, and a test that counts requests would count one more."""
    from pyarrow.fs import FileSystem

    opened, path = FileSystem.from_uri(uri)
    make, (options,) = opened.__reduce__()
    return make({**options, "connect_timeout": 600.0, "request_timeout": 600.0}), path


@contextlib.contextmanager
def s3_server() -> Iterator[Requests]:
    """A server with the bucket `data`, and the environment that points at it."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"  # keeps connections

        def log(self, *_: Any) -> None:
            """Says nothing."""

    forget_buckets()
    requests = Requests(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, requests, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, name="an S3 server", daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    environment = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    earlier_values = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    patience = pytest.MonkeyPatch()
    patience.setattr(file_systems, "_open_bucket", open_patiently)
    patience.setattr(conditional_writes, "_TIMEOUT", "600s")
    try:
        import boto3

        boto3.client("s3").create_bucket(Bucket=BUCKET)
        requests.kinds.clear()
        yield requests
    finally:
        server.shutdown()
        thread.join()
        forget_buckets()
        patience.undo()
        for name, value in earlier_values.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
