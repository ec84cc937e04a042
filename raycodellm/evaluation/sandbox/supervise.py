"""Runs one program against one test: starts both processes, waits for the verdict, and ends whatever is left."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import FileIO
from typing import Any

from raycodellm.evaluation.sandbox.inside import frames
from raycodellm.evaluation.sandbox.inside.checker import FAILED, NOT_RUN, PASSED
from raycodellm.evaluation.sandbox.inside.namespaces import NOBODY
from raycodellm.evaluation.sandbox.isolation import Isolation

START_SECONDS = 60.0
"""Longest time until both processes are confined; a busy machine takes its time."""
LOOK_SECONDS = 0.05
"""Between two looks at the size of a temporary folder."""


@dataclass(frozen=True)
class Limits:
    """Limits on what the model's program uses."""

    cpu_seconds: int = 10
    """Computing time. It does not grow when other processes keep the machine busy."""
    wall_seconds: float = 60.0
    """Elapsed time: a program that sleeps uses no computing time."""
    memory_bytes: int = 1 << 30
    """Address space."""
    file_bytes: int = 64 << 20
    """In the temporary folder, and in any one file."""


@dataclass(frozen=True)
class Program:
    """A program that a model wrote, with its test."""

    source: str
    test: str
    """Statements that raise unless the program is right. Where they define `check`, it is called with the function."""
    entry_point: str
    """The function that the test asks for."""
    prompt: str = ""
    """The beginning of the program that the task gave. The test may use what it defines."""


@dataclass(frozen=True)
class Verdict:
    """The result of one program."""

    result: str
    """passed, failed, or not_run where the sandbox or the machine failed: then nothing is known of the program."""
    why: str = ""
    cpu_seconds: float = 0.0
    """Computing time of the program, with the start of its process."""
    wall_seconds: float = 0.0


def limits_for(reference: Verdict, limits: Limits = Limits(), times: float = 10.0) -> Limits:
    """Limits for the programs of a task whose reference solution took so long: `times` as much, and never less than 2 s
    of computing, nor less time than `limits` where the reference itself needs more."""
    cpu_seconds = max(2, math.ceil(times * reference.cpu_seconds))
    wall_seconds = max(limits.wall_seconds, times * reference.wall_seconds)
    return Limits(cpu_seconds, wall_seconds, limits.memory_bytes, limits.file_bytes)


def run(program: Program, isolation: Isolation, limits: Limits = Limits()) -> Verdict:
    """Runs the program's test. Never raises for what a program does."""
    began = time.monotonic()
    try:
        result, why, cpu_seconds = _judge(program, isolation, limits)
    except OSError as error:  # no process, pipe or folder could be made
        return Verdict(NOT_RUN, f"the sandbox could not be started: {error}")
    if result == FAILED and cpu_seconds > limits.cpu_seconds - 0.5:
        why = f"over {limits.cpu_seconds} s of computing time"
    return Verdict(result, why, cpu_seconds, time.monotonic() - began)


class _Process:
    """One of the two processes."""

    def __init__(self, stack: contextlib.ExitStack, isolation: Isolation) -> None:
        self.is_confined = False
        self.cpu_seconds = 0.0
        """Known when the process has ended."""
        self.folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True))
        if isolation.as_nobody:
            os.chown(self.folder, NOBODY, NOBODY)
        self._isolation = isolation
        self.status, self._status_writer = _pipe(stack)

    def start(self, stack: contextlib.ExitStack, orders: dict[str, Any], requests: FileIO, answers: FileIO) -> None:
        descriptors = {
            "requests": requests.fileno(),
            "answers": answers.fileno(),
            "status": self._status_writer.fileno(),
        }
        self.popen = subprocess.Popen(
            self._isolation.command(orders["limits"]["file_bytes"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=tuple(descriptors.values()),
            env={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"},
            cwd="/",
            start_new_session=True,
        )
        stack.callback(self.end)
        self._status_writer.close()
        assert self.popen.stdin is not None
        with contextlib.suppress(frames.Closed):  # that the process ended at once is noticed later
            isolation = self._isolation.orders(self.folder)
            frames.send(self.popen.stdin.fileno(), {**orders, **descriptors, "isolation": isolation})

    def exit_code(self) -> int:
        """Waits until the process has ended."""
        self._reap(0)
        assert self.popen.returncode is not None
        return self.popen.returncode

    def last_words(self) -> str:
        """The last line on standard error, which the process has until it is confined."""
        assert self.popen.stderr is not None
        os.set_blocking(self.popen.stderr.fileno(), False)
        lines = (self.popen.stderr.read() or b"").decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def end(self, patience_seconds: float = 0.0) -> None:
        """Ends the process with all that it started, unless it ends by itself within `patience_seconds`."""
        until = time.monotonic() + patience_seconds
        while not self._reap(os.WNOHANG) and time.monotonic() < until:
            time.sleep(0.002)
        with contextlib.suppress(ProcessLookupError):  # nothing of its session is left
            os.killpg(self.popen.pid, signal.SIGKILL)
        self._reap(0)
        for stream in (self.popen.stdin, self.popen.stderr):
            assert stream is not None
            stream.close()

    def _reap(self, options: int) -> bool:
        """True if the process has ended; its exit code and its computing time are kept."""
        if self.popen.returncode is None:
            ended, status, usage = os.wait4(self.popen.pid, options)
            if ended:
                self.popen.returncode = os.waitstatus_to_exitcode(status)
                self.cpu_seconds = usage.ru_utime + usage.ru_stime
        return self.popen.returncode is not None


def _judge(program: Program, isolation: Isolation, limits: Limits) -> tuple[str, str, float]:
    """(result, why, computing seconds of the program's process)."""
    nonce = secrets.token_hex(16)
    with contextlib.ExitStack() as stack:
        candidate, checker = _Process(stack, isolation), _Process(stack, isolation)
        with contextlib.ExitStack() as pipes:
            request_reader, request_writer = _pipe(pipes)
            answer_reader, answer_writer = _pipe(pipes)
            common_orders = {"limits": asdict(limits), "nonce": nonce}
            candidate.start(
                stack,
                {**common_orders, "role": "candidate", "program": program.source, "nonce": ""},
                request_reader,
                answer_writer,
            )
            task_orders = {"prompt": program.prompt, "test": program.test, "entry_point": program.entry_point}
            checker.start(stack, {**common_orders, **task_orders, "role": "checker"}, request_writer, answer_reader)
        result, why = _verdict(candidate, checker, nonce, isolation, limits)
        # The program's process ends by itself after the checker. If it is killed, its computing time is not known.
        checker.end(1.0 if result == PASSED else 0.0)
        candidate.end(1.0)
        return result, why, candidate.cpu_seconds


def _verdict(
    candidate: _Process, checker: _Process, nonce: str, isolation: Isolation, limits: Limits
) -> tuple[str, str]:
    """(result, why), as soon as it is known."""
    began = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for process in (candidate, checker):
            selector.register(process.status, selectors.EVENT_READ, process)
        while True:
            for key, _ in selector.select(LOOK_SECONDS):
                process = key.data
                try:
                    message = frames.receive(process.status.fileno())
                except frames.Closed:
                    selector.unregister(process.status)
                    if process is checker:
                        return _ended_early(checker, "checker", candidate.is_confined and checker.is_confined)
                    if not candidate.is_confined:
                        return _ended_early(candidate, "program's process", False)
                    continue
                if "error" in message:
                    return NOT_RUN, f"the sandbox cannot confine a process: {message['error']}"
                if message.get("confined"):
                    process.is_confined, began = True, time.monotonic()
                elif process is checker and message.get("nonce") == nonce:
                    return message["result"], message["why"]
            seconds = time.monotonic() - began
            if candidate.is_confined and checker.is_confined:
                if seconds > limits.wall_seconds:
                    return FAILED, f"no end within {limits.wall_seconds:g} s"
            elif seconds > START_SECONDS:
                return NOT_RUN, f"the sandbox did not start within {START_SECONDS:g} s"
            if not isolation.has_own_files and _size(candidate.folder) > limits.file_bytes:
                return FAILED, f"over {limits.file_bytes:,} bytes in its temporary folder"


def _ended_early(process: _Process, name: str, has_begun: bool) -> tuple[str, str]:
    """The verdict on a process that ended without the word that it owes."""
    code = process.exit_code()
    if has_begun and code in _OVER_LIMIT:
        return FAILED, "the test used up its time or memory on what the program returned"
    words = process.last_words()
    return NOT_RUN, f"the {name} ended with exit code {code}{f': {words}' if words else ''}"


_OVER_LIMIT = (-signal.SIGKILL, -signal.SIGXCPU, 128 + signal.SIGKILL, 128 + signal.SIGXCPU)


def _pipe(stack: contextlib.ExitStack) -> tuple[FileIO, FileIO]:
    """(the end to read from, the end to write to); the stack closes each end that is still open."""
    read_end, write_end = os.pipe()
    return stack.enter_context(FileIO(read_end, "rb")), stack.enter_context(FileIO(write_end, "wb"))


def _size(folder: str) -> int:
    """Bytes of the files below the folder."""
    return sum(_file_sizes(folder))


def _file_sizes(folder: str) -> Iterator[int]:
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # deleted meanwhile
                yield os.lstat(os.path.join(path, name)).st_blocks * 512
