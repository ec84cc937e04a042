"""Ray's start: how long it is waited for, what is said of it, and what is written for it."""

from __future__ import annotations

import inspect
import os
import signal
import socket
import stat
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from raycodellm.cluster import RayNotStarted, auth_token, environment, start, startup_wait
from raycodellm.cluster.connect import _keep_sigterm_handler
from raycodellm.config import UserError

DASHBOARD = """
The last 20 lines of /tmp/ray/session_1/logs/dashboard.log (it contains the error message from the dashboard):
2026-01-01 00:00:00,000 WARNING http_server_head.py:479 -- Try to use port 8316: [Errno 98]
Exception: Failed to find a valid port for dashboard after 50 retries: [Errno 98] error while attempting to bind on
"""
SLOW = """
The last 20 lines of /tmp/ray/session_1/logs/dashboard.log (it contains the error message from the dashboard):
2026-01-01 00:00:00,000 INFO dashboard.py:232 -- Starting dashboard metrics server on port 44227
"""


GCS = """
Failed to start GCS.  Last 0 lines of error files:
.Please check /tmp/ray/session_1/logs/gcs_server.out for details. Last connection error: None
"""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (GCS, "its control service (GCS) did not answer (its log: /tmp/ray/session_1/logs/gcs_server.out)"),
        (DASHBOARD, "its dashboard found no free port (its log: /tmp/ray/session_1/logs/dashboard.log)"),
        ("Failed to bind to 127.0.0.1:8265 because it's already occupied.", "its dashboard found no free port"),
        (SLOW, "its dashboard did not come up (its log: /tmp/ray/session_1/logs/dashboard.log)"),
        ("The current node timed out during startup. This could", "its node process (raylet) did not come up"),
        ("[Errno 28] No space left on device: '/tmp/ray'", "no space is left on the disk of /tmp/ray"),
        ("first\nthe reason\n", "the reason"),
    ],
)
def test_why_ray_did_not_start_is_said_in_words(error: str, words: str) -> None:
    assert start.explain(error).startswith(words)


@pytest.fixture
def tries(monkeypatch) -> list[dict]:
    """The settings of each try; each one fails as the dashboard does that finds no port."""
    made: list[dict] = []

    def fail(settings, say):
        made.append(dict(settings))
        raise Exception(DASHBOARD)

    monkeypatch.setattr(start, "_start_once", fail)
    monkeypatch.setattr(start, "write_token", lambda: None)
    monkeypatch.setattr(start, "DASHBOARD_PORTS", [0])  # always free
    return made


def test_where_all_ports_that_ray_would_try_are_taken_the_first_start_has_another(monkeypatch, tries) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert not start.is_free(taken.getsockname()[1])
        monkeypatch.setattr(start, "DASHBOARD_PORTS", [taken.getsockname()[1]])
        with pytest.raises(RayNotStarted):
            start.start(2, 0, lambda line: None)
    assert start.is_free(tries[0]["dashboard_port"])


def test_a_start_that_failed_is_tried_again_on_other_ports_and_ends_with_the_cause(tries: list[dict]) -> None:
    said: list[str] = []
    with pytest.raises(RayNotStarted) as caught:
        start.start(2, 0, said.append)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 300
    assert "its dashboard found no free port" in str(caught.value)
    assert "dashboard_port" not in tries[0]  # Ray's own choice
    assert len({settings["dashboard_port"] for settings in tries[1:]}) == 2
    assert len(said) == 2 and all("trying again on other ports" in line for line in said)


def test_a_process_that_works_is_waited_for_and_one_that_does_not_is_stuck() -> None:
    progress = startup_wait.ProgressMeter(now=0.0)
    for second in range(300):  # two hundredths of a core, on a machine with fifty other processes at work
        assert not progress.is_stuck("dashboard", 0.02 * second, float(second))
    used = 0.02 * 299
    assert not progress.is_stuck("node process (raylet)", 0.0, 300.0)  # the next one begins anew
    assert not progress.is_stuck("node process (raylet)", 0.0, 359.0)
    assert progress.is_stuck("node process (raylet)", 0.0, 361.0)
    assert progress.is_stuck("dashboard", used, environment.LONGEST_START_SECONDS)


def test_what_is_waited_for_is_the_part_of_ray_that_was_started_last(monkeypatch) -> None:
    def process(pid: int, *command: str) -> SimpleNamespace:
        return SimpleNamespace(pid=pid, cmdline=lambda: list(command), children=lambda recursive: [])

    gcs, board = process(1, "/ray/gcs_server"), process(2, "python", "/ray/dashboard.py")
    raylet = process(3, "/ray/raylet")
    assert startup_wait._part_in_start([])[0] == "control service (GCS)"
    assert startup_wait._part_in_start([gcs]) == ("control service (GCS)", [gcs])
    assert startup_wait._part_in_start([gcs, board]) == ("dashboard", [board])
    assert startup_wait._part_in_start([gcs, board, raylet]) == ("node process (raylet)", [raylet])


def test_a_node_process_that_works_is_waited_for_inside_and_as_rays_own_outside(monkeypatch) -> None:
    from ray._private import services

    answers = [RuntimeError("not there yet"), RuntimeError("not there yet"), {"NodeID": "a"}]

    def get_node(*names):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert list(inspect.signature(services.get_node).parameters) == ["gcs_address", "node_id"]
    monkeypatch.setattr(services, "get_node", get_node)
    raylet = SimpleNamespace(pid=3, cmdline=lambda: ["/ray/raylet"], children=lambda recursive: [])
    monkeypatch.setattr(startup_wait, "descendants", lambda before: [raylet] if len(answers) > 1 else [])
    with startup_wait.StartupWait(set(), print):
        with pytest.raises(RuntimeError):  # the second time, when the raylet has ended
            services.get_node("gcs", "node")
        assert services.get_node("gcs", "node") == {"NodeID": "a"}
    assert services.get_node is get_node


def test_rays_own_limits_on_a_start_can_be_raised_by_variables(monkeypatch) -> None:
    from ray._private import ray_constants

    environment.prepare_environment()
    source = Path(ray_constants.__file__).read_text()
    assert 'env_integer("RAY_DASHBOARD_STARTUP_TIMEOUT_S", 60)' in source
    name = "RAY_DASHBOARD_STARTUP_TIMEOUT_S"
    assert ray_constants.env_integer(name, 60) == environment.LONGEST_START_SECONDS


def test_a_sigterm_while_ray_starts_and_afterwards_is_for_our_own_handler() -> None:
    heard: list[int] = []

    def ours(number, frame):
        heard.append(number)
        raise KeyboardInterrupt

    def rays(number, frame):  # what `ray.init` installs
        sys.exit(number)

    before = signal.signal(signal.SIGTERM, ours)
    try:
        with pytest.raises(KeyboardInterrupt), _keep_sigterm_handler():
            signal.signal(signal.SIGTERM, rays)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1.0)  # Python calls the handler here
        assert heard == [signal.SIGTERM] and signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)


# ------------------------------------------------------------------------------------------------- the token


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_token_is_for_its_owner_alone_whatever_the_umask(home) -> None:
    before = os.umask(0)
    try:
        auth_token.write_token()
    finally:
        os.umask(before)
    token = home / ".ray" / "auth_token"
    assert (mode(token), mode(token.parent)) == (0o600, 0o700)
    assert len(token.read_text()) >= 32
    assert auth_token.token_warnings() == []
    kept = token.read_text()
    auth_token.write_token()
    assert token.read_text() == kept


def test_a_token_that_others_can_read_is_said(home) -> None:
    (home / ".ray").mkdir(mode=0o755)
    (home / ".ray" / "auth_token").write_text("0" * 64)
    (home / ".ray" / "auth_token").chmod(0o644)
    (line,) = auth_token.token_warnings()
    assert f"chmod 600 {home}/.ray/auth_token" in line


@pytest.mark.parametrize("name", ["RAY_AUTH_MODE=disabled", "RAY_AUTH_TOKEN=abc", "RAY_AUTH_TOKEN_PATH=/some/where"])
def test_no_token_is_written_where_none_is_asked_for_or_another_is_given(home, monkeypatch, name: str) -> None:
    monkeypatch.setenv(*name.split("="))
    auth_token.write_token()
    assert list(home.iterdir()) == []


def test_a_home_that_cannot_be_written_is_one_line(home) -> None:
    (home / ".ray").write_text("a file")
    with pytest.raises(UserError, match=r"\.ray/auth_token: Ray's token cannot be written there"):
        auth_token.write_token()
