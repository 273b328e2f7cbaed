"""Nothing is fetched and nothing is sent: the commands with every way out watched, and shut where the system allows.
For `synergic serve`, test_web.py watches the same."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import tiny_recipe

MakeWeights = Callable[..., Path]

GUARD = """
import json, os, sys

def guard(event, arguments):  # a process that asks for another machine's address, or speaks to one, ends at once
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        host = arguments[1][0] if isinstance(arguments[1], tuple) else "localhost"  # else a socket in the file system
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"):
        host = arguments[0]
    else:
        return
    if host not in (None, "localhost", "127.0.0.1", "::1"):
        print("tried to reach", host, file=sys.stderr, flush=True)
        os._exit(99)

sys.addaudithook(guard)
"""


def guarded(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python code under guard, without a network where a namespace of one's own can be had."""
    command = [sys.executable, "-c", GUARD + code, *arguments]
    alone = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare") and subprocess.run([*alone, "true"], capture_output=True, check=False).returncode == 0:
        command = [*alone, *command]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.create_connection(('192.0.2.1', 80))",
        "import socket; socket.getaddrinfo('example.org', 443)",
        "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'', ('192.0.2.1', 53))",
        "import urllib.request; urllib.request.urlopen('https://example.org')",
    ],
)
def test_the_guard_sees(code: str) -> None:
    assert guarded(code).returncode == 99


def test_the_guard_lets_this_machine_speak_to_itself() -> None:
    code = "import socket\nserver = socket.create_server(('127.0.0.1', 0))\n"
    done = guarded(code + "socket.create_connection(server.getsockname())")
    assert done.returncode in (0, 1), "1: alone, not even loopback is up"


def test_no_command_reaches_for_the_network(tmp_path: Path, make_weights: MakeWeights) -> None:
    recipe, weights, device = tiny_recipe(tmp_path, steps=2), make_weights(), ("--device", "cpu")
    pictures = tmp_path / "val"
    commands = [
        ("restore", pictures, "-o", tmp_path / "out"),
        ("restore", pictures, "-o", tmp_path / "tiny", "--weights", weights, *device),
        ("evaluate", "--weights", weights, "--data", pictures, "--sigma", 25, *device),
        ("weights",),
        ("compare", pictures, "--sigma", 25, "--weights", weights, "--limit", 1, "-o", tmp_path / "compared", *device),
        ("explain", pictures / "0.png", "-o", tmp_path / "figure.png", "--weights", weights, *device),
        ("train", recipe, "-o", tmp_path / "run", "--accelerator", "cpu"),
    ]
    code = """
import synergic
from synergic import Restorer, SATNet
from synergic.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["synergic", *arguments]
    try:
        main()
    except SystemExit as end:
        assert not end.code, arguments
"""
    done = guarded(code, json.dumps([[str(word) for word in command] for command in commands]))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "weights.safetensors").exists()
    assert len(list((tmp_path / "out").iterdir())) == 2
