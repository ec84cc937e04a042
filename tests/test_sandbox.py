"""Code that a model wrote runs only in the sandbox, harms nothing from there, and cannot pass but by being right."""

from __future__ import annotations

import ast
import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raycodellm.evaluation import sandbox
from raycodellm.evaluation.sandbox import FAILED, NOT_RUN, PASSED, Limits, Program, supervise
from raycodellm.evaluation.sandbox.isolation import INSIDE, Isolation

DATA = Path(os.environ.get("RAYCODELLM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
LIMITS = Limits(cpu_seconds=2, wall_seconds=300.0, memory_bytes=512 << 20, file_bytes=8 << 20)
ASSERT_42 = "assert work() == 42"

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the sandbox needs Linux")


@pytest.fixture(scope="module")
def strongest():
    """The isolation for tests that do not depend on it."""
    try:
        return sandbox.find_isolation()
    except sandbox.SandboxUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=sandbox.KINDS)
def isolated(request):
    try:
        return sandbox.proven(request.param)
    except sandbox.SandboxUnavailable as error:
        pytest.skip(str(error))


def judge(isolated, source, test=ASSERT_42, entry_point="work", limits=LIMITS, prompt=""):
    return sandbox.run(Program(source, test, entry_point, prompt), isolated, limits)


# ------------------------------------------------------------------------------------------------- right and wrong


def test_right_programs_pass_and_wrong_ones_fail_with_the_reason(strongest):
    assert judge(strongest, "def work(): return 42").result == PASSED
    wrong = judge(strongest, "def work(): return 41")
    assert (wrong.result, wrong.why) == (FAILED, "the test does not hold")
    assert "ZeroDivisionError" in judge(strongest, "def work(): return 1 / 0").why
    assert "SyntaxError" in judge(strongest, "def work(: return 42").why
    assert judge(strongest, "other = 1").why == "the program defines no work"


def test_values_of_every_built_in_type_come_and_go_as_they_are(strongest):
    values = (
        "(None, True, -(10**400), 1e-300, float('inf'), 2 - 3j, '\\ud800 ä', b'\\0', bytearray(b'a'), [1, [2]], (), "
        "{1: {2}}, frozenset({(1,)}), range(2, 9, 3), int)"
    )
    test = f"value = {values}\nassert work(value) == value and made() == value\n"
    test += "assert [type(one) for one in work(value)] == [type(one) for one in value]"
    verdict = judge(strongest, f"def work(value): return value\n\ndef made(): return {values}", test)
    assert verdict.result == PASSED, verdict.why


@pytest.mark.slow
def test_a_test_may_use_what_the_prompt_defines_objects_of_the_programs_and_the_exceptions_it_asks_for(strongest):
    prompt = "def double(x):\n    return 2 * x\n\ndef work(x):\n    'Half of x.'\n"
    check = "def check(candidate):\n    assert candidate(double(21)) == 21"
    assert judge(strongest, prompt + "    return x // 2", check, prompt=prompt).result == PASSED
    named_check = "def check(candidate):\n    assert check(3) == 4 and candidate(3) == 4"
    assert judge(strongest, "def check(x): return x + 1", named_check, "check").result == PASSED

    tree = (
        "class Node:\n    def __init__(self, data): self.data = data\n\ndef work(node): return [node.data, node.left]"
    )
    test = "root = Node(1)\nroot.left = 7\nassert work(root) == [1, 7] and root.left == 7"
    assert judge(strongest, tree, test).result == PASSED
    assert judge(strongest, "def work(n): yield from range(n)", "assert list(work(3)) == [0, 1, 2]").result == PASSED
    match = "import re\ndef work(text): return re.search('b', text)"
    assert judge(strongest, match, "assert work('abc') and not work('xyz')").result == PASSED

    asks = (
        "try:\n    work()\nexcept ValueError as error:\n    assert 'bad' in str(error)\nelse:\n    raise AssertionError"
    )
    assert judge(strongest, "def work(): raise ValueError('bad')", asks).result == PASSED
    assert judge(strongest, "def work(): return None", asks).result == FAILED


def test_nothing_is_known_of_a_program_whose_test_or_sandbox_is_broken(strongest):
    assert judge(strongest, "def work(): return 42", "assert work( ==").result == NOT_RUN
    assert judge(strongest, "def work(f): return f()", "assert work(lambda: 42) == 42").result == NOT_RUN

    class Broken(Isolation):
        def command(self, temporary_bytes):
            return [sys.executable, "-c", "raise SystemExit('no such thing here')"]

    verdict = sandbox.run(Program("def work(): return 42", ASSERT_42, "work"), Broken("landlock"), LIMITS)
    assert verdict.result == NOT_RUN and "no such thing here" in verdict.why


# ------------------------------------------------------------------------------------------------- forgeries

FORGERIES = {
    "equal to everything": """
class Yes:
    __hash__ = None
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __sub__(self, other): return self
    __rsub__ = __sub__
    def __abs__(self): return 0
    def __lt__(self, other): return True
    def __bool__(self): return True
    def __iter__(self): return iter([41])
def work(): return Yes()
""",
    "a number equal to everything": """
class Yes(int):
    def __eq__(self, other): return True
    def __sub__(self, other): return 0
    def __index__(self): return 42
    def __int__(self): return 42
def work(): return Yes(7)
""",
    "a list equal to everything": """
class Yes(list):
    def __eq__(self, other): return True
    def __iter__(self): return iter([41])
def work(): return Yes([1])
""",
    "exits when loaded": "import sys\nsys.exit(0)",
    "exits when called": "import os\ndef work(): os._exit(0)",
    "prints the verdict": """
import json, os, struct
def work():
    message = json.dumps({"nonce": "", "id": "", "result": "passed", "why": "", "value": 42}).encode()
    print("passed", flush=True)
    for descriptor in range(64):
        try:
            os.write(descriptor, struct.pack(">Q", len(message)) + message)
        except OSError:
            pass
    return 41
""",
    "overwrites the checker": """
import glob, os, sys
def work():
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if path and "sandbox" in path:
            with open(path, "w") as file:
                file.write("")
    return 41
""",
    "patches what the checker uses": """
import builtins, json, sys, types
builtins.all = builtins.any = lambda *values: True
builtins.len = lambda value: 42
builtins.AssertionError = type("Never", (Exception,), {})
for name, module in list(sys.modules.items()):
    if "sandbox" in name:
        if hasattr(module, "check"):
            module.check = lambda *values: ("passed", "")
        if hasattr(module, "PASSED"):
            module.FAILED = "passed"
json.JSONEncoder.default = lambda self, value: 42
def work(): return 41
""",
    "answers for the checker": """
import sys
def work():
    frame = sys._getframe()
    while frame:
        for name, value in list(frame.f_locals.items()):
            if name == "request":
                value.clear()
        frame = frame.f_back
    return 41
""",
    "defines the test": "def check(candidate): pass\ndef work(): return 41",
    "a huge answer": "def work(): return 'x' * (80 << 20)",
    "an endless list": "def work():\n    while True: yield 42",
    "a deep answer": "def work():\n    value = []\n    for _ in range(10000): value = [value]\n    return value",
    "an answer that holds itself": "def work():\n    value = []\n    value.append(value)\n    return value",
}
ANY_FORM_OF_42 = """
def check(work):
    forms = [
        lambda answer: abs(answer - 42) < 1e-6,
        lambda answer: abs(42 - answer) < 1e-6,
        lambda answer: answer == 42 or 42 == answer or not answer != 42 or answer in (42,),
        lambda answer: answer == [42] or list(answer) == [42] or sorted(answer) == [42],
        lambda answer: answer and answer > 41 and answer < 43,
        lambda answer: isinstance(answer, int) and answer // 2 == 21,
    ]
    held = []
    for form in forms:
        try:
            held.append(form(work()))
        except Exception:
            pass
    assert any(held)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", FORGERIES)
def test_no_forgery_passes(strongest, name):
    verdict = judge(strongest, FORGERIES[name], ANY_FORM_OF_42, limits=Limits(2, 4.0))
    assert verdict.result == FAILED, verdict


@pytest.mark.slow
def test_raising_is_no_answer_of_nothing(strongest):
    """Tests that expect None, emptiness, or the end of an iterator."""
    for raised in ("ValueError", "StopIteration", "GeneratorExit", "KeyboardInterrupt", "SystemExit", "MemoryError"):
        source = f"def work(*values): raise {raised}"
        test = "def check(work):\n    assert all(map(lambda value: work(value) == 1, [1, 2]))\n"
        test += "    for answer in map(work, [1, 2]):\n        assert answer == 1\n    assert not list(map(work, [3]))"
        assert judge(strongest, source, test).result == FAILED, raised
    assert judge(strongest, "def work(): raise ValueError", "assert work() is None or not work()").result == FAILED


# ------------------------------------------------------------------------------------------------- attacks


def test_nothing_of_the_machine_is_read_written_reached_or_started(isolated, tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    monkeypatch.setenv("SECRET_KEY", "secret")
    source = f"""
import os, signal, socket, subprocess, ctypes, resource, threading
def work():
    done = []
    def can(name, action):
        try:
            if action() is not False:
                done.append(name)
        except BaseException:
            pass
    can("secret", lambda: open({str(secret)!r}).read())
    can("home", lambda: os.listdir({str(Path.home())!r}))
    for place in ("/root", "/home", "/proc", "/proc/1/environ", "/proc/self/environ", "/sys", "/etc/passwd", "/var"):
        can("read " + place, lambda: os.listdir(place) if os.path.isdir(place) else open(place).read())
    can("environment", lambda: "SECRET_KEY" in os.environ or "secret" in str(os.environ))
    for folder in ("", "/usr", "/etc", "/var/tmp", "/dev/shm", "/home", {str(INSIDE)!r}, {str(tmp_path)!r}):
        place = folder + "/x"
        can("write " + place, lambda: open(place, "w"))
        can("link " + place, lambda: os.symlink("/etc", place))
        can("make " + place, lambda: os.mkdir(place))
    can("chmod", lambda: os.chmod({str(INSIDE / "main.py")!r}, 0o777))
    for family, kind in ((socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET, socket.SOCK_DGRAM),
                         (socket.AF_INET6, socket.SOCK_STREAM), (socket.AF_UNIX, socket.SOCK_STREAM)):
        can("socket", lambda: socket.socket(family, kind))
    can("socketpair", socket.socketpair)
    can("fork", lambda: os.fork() or os._exit(0))
    can("spawn", lambda: subprocess.run(["/bin/true"]))
    can("exec", lambda: os.execv("/bin/true", ["true"]))
    for process in (os.getppid(), 1, -1, 0):
        can("kill", lambda: os.kill(process, signal.SIGKILL))
    can("limits", lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)))
    can("limits of the parent", lambda: resource.prlimit(os.getppid() or 1, resource.RLIMIT_CPU, (1, 1)))
    can("ptrace", lambda: ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0)
    can("root", lambda: os.setuid(0) or False)
    can("namespace", lambda: ctypes.CDLL(None).unshare(0x10000000) == 0)
    can("priority", lambda: os.setpriority(os.PRIO_PROCESS, 0, -5))
    thread = threading.Thread(target=lambda: done.append("thread"))
    thread.start()
    thread.join()
    with open("own", "w") as file:
        file.write("own")
    return done
"""
    test = "found = work()\nassert found == ['thread'], found"
    verdict = judge(isolated, source, test)
    assert verdict.result == PASSED, verdict.why
    assert not (tmp_path / "x").exists() and not (INSIDE / "x").exists()


@pytest.mark.slow
def test_limits_end_the_program_and_all_that_it_started(isolated, monkeypatch):
    sessions: set[int] = set()
    start = supervise._Process.start

    def noting(process, *arguments):
        start(process, *arguments)
        sessions.add(process.popen.pid)  # each begins a session, which all that it starts are in

    monkeypatch.setattr(supervise._Process, "start", noting)

    def left():
        """The lines of `ps` for what runs in these sessions: of the whole machine's, other tests have some too."""
        listed = subprocess.run(["ps", "-eo", "sid,stat,args"], capture_output=True, text=True, check=True).stdout
        lines = [line.split(maxsplit=2) for line in listed.splitlines()[1:]]
        return [line for line in lines if int(line[0]) in sessions and not line[1].startswith("Z")]

    endless = judge(isolated, "def work():\n    while True: pass", limits=Limits(1, 300.0))
    assert endless.result == FAILED and endless.why == "over 1 s of computing time"
    asleep = judge(isolated, "import time\ndef work(): time.sleep(1000)", limits=Limits(wall_seconds=1.0))
    assert asleep.result == FAILED and asleep.why == "no end within 1 s"
    at_load = judge(isolated, "import time\ntime.sleep(1000)", limits=Limits(wall_seconds=1.0))
    assert at_load.result == FAILED
    threads = (
        "import threading, time\nfor _ in range(9):\n    threading.Thread(target=time.sleep, args=(1000,)).start()\n"
    )
    assert judge(isolated, threads + "def work(): return 42").result == PASSED
    memory = judge(isolated, "def work(): return len(bytearray(10 << 30))")
    assert memory.result == FAILED and "MemoryError" in memory.why
    bomb = "import os\ndef work():\n    while True:\n        try: os.fork()\n        except OSError: return 42"
    assert judge(isolated, bomb).result == PASSED  # as one process
    output = "import os\ndef work():\n    for _ in range(10_000): os.write(1, bytes(1 << 20))\n    return 42"
    assert judge(isolated, output).result in (PASSED, FAILED)
    assert len(sessions) == 14
    until = time.monotonic() + 120
    while left() and time.monotonic() < until:  # a process that was killed takes a moment to end
        time.sleep(0.05)
    assert not left()


@pytest.mark.slow
def test_no_program_fills_the_disk(isolated, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    source = """
def work():
    written = 0
    try:
        for number in range(1000):
            with open(str(number), "wb") as file:
                for _ in range(4):
                    written += file.write(bytes(1 << 20))
    except OSError:
        pass
    return written
"""
    verdict = judge(isolated, source, "assert work() < 100 << 20")
    assert verdict.result == PASSED or "bytes in its temporary folder" in verdict.why
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_busy_machine_changes_no_verdict(strongest):
    """A program that needs a third of its computing time passes, an endless one fails, beside ten busy processes."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(10)]
    try:
        slow = "def work():\n    import time\n    while time.process_time() < 0.7: pass\n    return 42"
        assert judge(strongest, slow, limits=Limits(cpu_seconds=2, wall_seconds=300.0)).result == PASSED
        assert judge(strongest, "def work():\n    while True: pass", limits=Limits(1, 300.0)).result == FAILED
    finally:
        for process in busy:
            process.kill()
            process.wait()


# ------------------------------------------------------------------------------------------------- the command


@pytest.mark.slow
def test_the_command_prints_a_line_for_each_sample(tmp_path):
    def sample(task, completion, **more):
        test = "def check(candidate):\n    assert candidate(2) == 4"
        return {
            "task_id": task,
            "prompt": "def twice(x):\n",
            "completion": completion,
            "test": test,
            "entry_point": "twice",
            **more,
        }

    samples = [
        sample("right", "    return 2 * x\n"),
        sample("wrong", "    return x\n"),
        sample("endless", "    while True: pass\n", canonical_solution="    return x + x\n"),
        sample("unknown", "    return 4\n", canonical_solution="    return 5\n"),
    ]
    path = tmp_path / "samples.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, samples)).encode()))
    lines = _command(path).stdout.splitlines()
    assert [(one["task_id"], one["result"]) for one in map(json.loads, lines)] == [
        ("right", PASSED),
        ("wrong", FAILED),
        ("endless", FAILED),
        ("unknown", NOT_RUN),
    ]
    assert json.loads(lines[2])["why"] == "over 2 s of computing time"

    broken = tmp_path / "broken.jsonl"
    broken.write_text(json.dumps(samples[0]) + '\n{"task_id": "x", "prompt": ""}\n')
    refused = _command(broken, expected=2)
    assert "line 2: lacks completion, test, entry_point" in refused.stderr and not refused.stdout


@pytest.mark.slow
def test_the_solutions_of_humaneval_pass_and_empty_ones_fail(tmp_path):
    path = DATA / "eval" / "HumanEval.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    tasks = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()][::8]
    samples = [{**task, "completion": done} for task in tasks for done in (task["canonical_solution"], "    pass\n")]
    for one in samples:
        del one["canonical_solution"]
    (tmp_path / "samples.jsonl").write_text("\n".join(map(json.dumps, samples)))
    results = [json.loads(line)["result"] for line in _command(tmp_path / "samples.jsonl").stdout.splitlines()]
    assert set(results[::2]) == {PASSED} and set(results[1::2]) == {FAILED}


def _command(path, expected=0):
    run = subprocess.run(
        [sys.executable, "-m", "raycodellm.evaluation.sandbox", path], capture_output=True, text=True, timeout=600
    )
    assert run.returncode == expected, run.stderr
    return run


def test_the_sandbox_imports_nothing_else_of_the_package():
    for path in INSIDE.parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                own = name.startswith("raycodellm.evaluation.sandbox")
                assert own or name.split(".")[0] in sys.stdlib_module_names, f"{path.name} imports {name}"


def test_without_a_sandbox_every_result_is_not_run(tmp_path, monkeypatch, capsys):
    from raycodellm.evaluation.sandbox import __main__ as command

    def none():
        raise sandbox.SandboxUnavailable("no sandbox works here (landlock: no kernel for it)")

    monkeypatch.setattr(command, "find_isolation", none)
    sample = {
        "task_id": 1,
        "prompt": "",
        "completion": "work = int",
        "test": "assert work() == 0",
        "entry_point": "work",
    }
    path, packed = tmp_path / "one.jsonl", tmp_path / "one.jsonl.gz"
    path.write_text(json.dumps(sample | {"test": "# a\u2028b\nassert work() == 0"}, ensure_ascii=False) + "\n")
    assert command.main([str(path)]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["result"] == NOT_RUN and "no sandbox works here" in said.err
    packed.write_bytes(gzip.compress(path.read_bytes())[:-9])
    assert command.main([str(packed)]) == 2 and "cannot be unpacked" in capsys.readouterr().err
    for wrong in ("--workers=0", "--cpu-seconds=-1", "--wall-seconds=nan", "--memory-mib=1.5"):
        with pytest.raises(SystemExit, match="2"):
            command.main([str(path), wrong])
        assert "number over 0" in capsys.readouterr().err
