"""A cloud's notice that it takes a machine away reaches Ray while there is time to save."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from raycodellm.cluster import spot_notice


class MetadataServer(BaseHTTPRequestHandler):
    """A pretended metadata server: of AWS, with tokens as IMDSv2 asks for them, and of Google Cloud."""

    notice: str | None = None
    errors = 0

    def do_PUT(self) -> None:
        assert self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self.answer(200, "a-token")

    def do_GET(self) -> None:
        server = type(self)
        if server.errors:
            server.errors -= 1
            return self.answer(503, "busy")
        if self.path == "/latest/meta-data/spot/instance-action":
            known = self.headers["X-aws-ec2-metadata-token"] == "a-token"
            status = 401 if not known else 200 if server.notice else 404
            return self.answer(status, server.notice or "")
        assert self.headers["Metadata-Flavor"] == "Google"
        self.answer(200, "TRUE" if server.notice else "FALSE")

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    MetadataServer.notice, MetadataServer.errors = None, 0
    with ThreadingHTTPServer(("127.0.0.1", 0), MetadataServer) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


NOW = datetime.datetime(2026, 2, 28, 23, 59, 30, tzinfo=datetime.UTC)


@pytest.fixture(autouse=True)
def at_its_own_pace(monkeypatch) -> None:
    """The clock that tells the seconds which are left stands still, and an answer may take long."""

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None) -> datetime.datetime:
            return NOW.astimezone(tz)

    monkeypatch.setattr(spot_notice, "datetime", SimpleNamespace(datetime=Clock, UTC=datetime.UTC))
    monkeypatch.setattr(spot_notice, "ANSWER_SECONDS", 60.0)


def give_aws_notice(seconds: float) -> None:
    ends = NOW + datetime.timedelta(seconds=seconds)
    MetadataServer.notice = f'{{"action": "terminate", "time": "{ends:%Y-%m-%dT%H:%M:%SZ}"}}'


def test_aws_tells_how_long_a_spot_machine_stays(server):
    assert spot_notice.aws_notice(server) is None
    give_aws_notice(120)
    assert spot_notice.aws_notice(server) == 120
    give_aws_notice(-5)
    assert spot_notice.aws_notice(server) == 0


def test_google_leaves_half_a_minute(server):
    assert spot_notice.gcp_notice(server) is None
    MetadataServer.notice = "now"
    assert spot_notice.gcp_notice(server) == 30


def test_a_metadata_server_that_fails_for_a_while_is_asked_again(server, capsys):
    MetadataServer.errors = 2
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            give_aws_notice(120)

    assert spot_notice.wait(lambda: spot_notice.aws_notice(server), sleep) == 120
    assert waits == [spot_notice.POLL_SECONDS] * 3 and capsys.readouterr().out.count("503") == 2


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_after_the_notice_ray_drains_this_node_for_as_long_as_it_stays(server, monkeypatch, cloud):
    ran: list[list[str]] = []

    def run(command, check):
        ran.append(command)
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(spot_notice.subprocess, "run", run)
    raylet = ["/ray/core/src/ray/raylet/raylet", "--gcs-address=10.0.0.5:6379", "--node_id=abc", "--head"]
    processes = [SimpleNamespace(info={"cmdline": words}) for words in (raylet, None, [], ["python", "raylet"])]
    monkeypatch.setattr("psutil.process_iter", lambda names: processes)
    give_aws_notice(100)
    assert spot_notice.main([cloud, "--metadata", server]) == 0
    (command,) = ran
    assert command[1:4] == ["drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    assert command[-4:] == ["--address", "10.0.0.5:6379", "--node-id", "abc"]
    seconds = int(command[command.index("--deadline-remaining-seconds") + 1])
    assert seconds == (100 if cloud == "aws" else 30)


def test_ray_still_has_the_command_that_drains_a_node():
    from ray.scripts.scripts import cli

    options = {option for parameter in cli.commands["drain-node"].params for option in parameter.opts}
    assert {"--address", "--node-id", "--reason", "--reason-message", "--deadline-remaining-seconds"} <= options
