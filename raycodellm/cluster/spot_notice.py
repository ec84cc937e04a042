"""Tells Ray that a cloud is about to take this machine away, so that running stages save themselves first.

    python -m raycodellm.cluster.spot_notice {aws,gcp,now}

Runs on a worker machine, beside Ray, whose launcher passes no notice on. `aws` and `gcp` ask the cloud's metadata
server every few seconds whether the machine got its notice (AWS gives two minutes, Google Cloud 30 s), and then have
Ray drain the node. `now` drains at once, for a pod's preStop hook.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

POLL_SECONDS = 5.0
METADATA = {"aws": "http://169.254.169.254", "gcp": "http://metadata.google.internal"}
"""Addresses of the clouds' metadata servers, which every machine reaches."""
GOOGLE_SECONDS = 30.0
"""How long Google Cloud leaves a spot machine after its notice."""
ANSWER_SECONDS = 2.0
"""Longest wait for an answer of the metadata server."""
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def main(arguments: Sequence[str] | None = None) -> int:
    """Waits for the notice, drains the node, and returns the exit code of `ray drain-node`."""
    options = _parser().parse_args(arguments)
    began_at = time.monotonic()
    if options.cloud == "now":
        seconds: float = options.seconds
    else:
        server = options.metadata or METADATA[options.cloud]
        ask_for_notice = aws_notice if options.cloud == "aws" else gcp_notice
        seconds = wait(lambda: ask_for_notice(server), time.sleep)
    print(f"this machine goes in {seconds:.0f} s: its work is moved away", flush=True)
    code = drain(nodes_here(), seconds)
    if options.cloud == "now":
        time.sleep(max(0.0, began_at + seconds - time.monotonic()))  # a pod ends when its preStop hook does
    return code


def wait(ask_for_notice: Callable[[], float | None], sleep: Callable[[float], None]) -> float:
    """Asks until there is a notice; returns the seconds that are left. A server that does not answer is asked again."""
    while True:
        try:
            seconds = ask_for_notice()
        except (OSError, ValueError) as error:  # ValueError: an answer that cannot be read
            print(f"no answer of the metadata server: {error}", flush=True)
            seconds = None
        if seconds is not None:
            return seconds
        sleep(POLL_SECONDS)


def aws_notice(server: str) -> float | None:
    """Seconds until AWS ends this spot machine; None without a notice, and on a machine on demand."""
    token = _get(f"{server}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, method="PUT")
    answer = _get(f"{server}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token or ""})
    if answer is None:
        return None
    ends_at = datetime.datetime.fromisoformat(json.loads(answer)["time"].replace("Z", "+00:00"))
    return max(0.0, (ends_at - datetime.datetime.now(datetime.UTC)).total_seconds())


def gcp_notice(server: str) -> float | None:
    """Seconds until Google Cloud ends this spot machine; None without a notice."""
    answer = _get(f"{server}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    return GOOGLE_SECONDS if answer == "TRUE" else None


def drain(nodes: Sequence[tuple[str, str]], seconds: float) -> int:
    """Has Ray drain these nodes, which are gone in `seconds`; returns the highest exit code of `ray drain-node`.

    `nodes`: (address of the cluster, id) of each. Without an id the command starts a Ray of its own, seen on a machine
    of two nodes.
    """
    if not nodes:
        print("no Ray runs on this machine", flush=True)
    command = [str(Path(sys.executable).with_name("ray")), "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "the cloud takes this machine away"]
    command += ["--deadline-remaining-seconds", str(int(seconds))]
    calls = [[*command, "--address", address, "--node-id", node] for address, node in nodes]
    return max((subprocess.run(call, check=False).returncode for call in calls), default=1)


def nodes_here() -> list[tuple[str, str]]:
    """(address of the cluster, id) of each Ray node of this machine, as its raylet's command line says."""
    import psutil

    nodes = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words and Path(words[0]).name == "raylet":
            options = dict(word[2:].split("=", 1) for word in words[1:] if word.startswith("--") and "=" in word)
            nodes.append((options["gcs-address"], options["node_id"]))
    return nodes


def _get(url: str, headers: Mapping[str, str], method: str = "GET") -> str | None:
    """The answer's text; None where the server has nothing there (404)."""
    request = urllib.request.Request(url, headers=dict(headers), method=method)
    try:
        with _DIRECT.open(request, timeout=ANSWER_SECONDS) as answer:
            return str(answer.read().decode()).strip()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="raycodellm.cluster.spot_notice", description=__doc__.splitlines()[0])
    parser.add_argument("cloud", choices=("aws", "gcp", "now"))
    parser.add_argument("--seconds", type=float, default=20.0, help="with `now`: how long the machine stays")
    parser.add_argument("--metadata", metavar="URL", help="another metadata server, for tests")
    return parser


if __name__ == "__main__":
    sys.exit(main())
