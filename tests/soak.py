"""Visitors by the hundred: `python tests/soak.py --count 500`.

Visitors come to a `synergic serve` of their own, several at a time, some of them with bad requests. Each must get his
own picture back or one clear line; the server must answer all, keep no file, tell no error, and grow by no more than
5 % of its memory after the first quarter. Exit code 1 if a promise was broken. Linux.
"""

import argparse
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pictures import png
from synergic.images import read_pixels

VISITORS = 5
LIMITS = ("--max-bytes", "2000000", "--max-pixels", "3000000", "--max-line", "6")

WATCHED = """
import sys

def watch(event, arguments):
    asked = {"socket.connect": 1, "socket.getaddrinfo": 0}.get(event)
    if asked is not None and "127.0.0.1" not in str(arguments[asked]):
        print("outside:", event, arguments, file=sys.stderr, flush=True)

sys.addaudithook(watch)
from synergic.cli import main
main()
"""
"""The command, telling every connection and name look-up that is not to this machine."""


class Server:
    """A running `synergic serve`."""

    def __init__(self, folder: Path) -> None:
        self.temporary, self.errors = folder / "tmp", folder / "errors"
        self.temporary.mkdir()
        command = [sys.executable, "-c", WATCHED, "serve", "--port", "0", *LIMITS]
        with self.errors.open("w") as errors:
            environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(self.temporary)}
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.fullmatch(r"(http://127.0.0.1:(\d+)) is ready; Ctrl-C ends it\n", line)
        assert found is not None, self.errors.read_text()
        self.url, self.port = found[1], int(found[2])

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        """Status and body of one request, made as soon as the server listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, headers, encode_chunked=not isinstance(body, (bytes, type(None))))
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def tell(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of a request that must succeed."""
        status, answer = self.ask(method, path, body)
        assert status in (200, 201, 202), answer
        return json.loads(answer)

    def hand_in(self, path: Path) -> str:
        """The token of a new picture."""
        return str(self.tell("PUT", f"/pictures/{path.name}", path.read_bytes())["token"])

    def files(self) -> list[Path]:
        """Everything that it keeps at the moment: folders may vanish on the way."""
        return [Path(folder, name) for folder, _, names in os.walk(self.temporary) for name in names]

    def memory(self) -> int:
        """Bytes in use."""
        match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        assert match is not None
        return int(match[1]) * 1024

    def end(self, known: str = "") -> None:
        """By Ctrl-C: it asked nobody outside, logged nothing but the line `known`, left nothing."""
        self.process.send_signal(signal.SIGINT)
        rest, _ = self.process.communicate(timeout=30)
        assert (self.process.returncode, rest) == (0, "")
        assert set(self.errors.read_text().splitlines()) <= {"", known}, self.errors.read_text()
        assert list(self.temporary.iterdir()) == []


def wait_until(happened: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# ---- visitors


def visit(server: Server, number: int) -> str:
    """One visitor, of one of ten kinds by his number; returns what he was given, "wrong: ..." for what he must not."""
    own = np.full((8, 8 + number % 16, 1), number % 250, np.uint8)  # no other has both; few sizes, for oneDNN keeps
    # kernels for each, until its cache is full
    picture, kind = png(own), number % 10
    if kind == 9:
        return leave(server, picture)
    if kind == 8:
        return step_by_step(server, picture, own)
    asked: dict[int, tuple[int, str, Any, dict[str, str]]] = {
        3: (400, "/restore/a.png", b"bad" * number, {}),
        4: (400, "/restore/a.png", picture[: len(picture) // 2], {}),
        5: (400, "/restore/a.png?sigma=nan&strength=7", picture, {}),
        6: (403, "/restore/a.png", picture, {"origin": "https://evil.example"}),
        7: (413, "/restore/a.png", (bytes(100_000) for _ in range(21)), {"transfer-encoding": "chunked"}),
    }
    wanted, path, body, headers = asked.get(kind, (200, "/restore/a.png?strength=0", picture, {}))
    status, answer = server.ask("PUT", path, body, **headers)
    if status != wanted:
        return f"wrong: {number}: status {status} in place of {wanted}: {answer[:200]!r}"
    if status == 200:
        return "restored" if same(answer, own) else f"wrong: {number}: another's picture"
    return f"status {status}" if answer.count(b"\n") == 1 else f"wrong: {number}: {answer[:200]!r}"


def same(answer: bytes, own: np.ndarray) -> bool:
    """Does a file hold these pixels?"""
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        file.write(answer)
        file.flush()
        return np.array_equal(read_pixels(Path(file.name)), own)


def step_by_step(server: Server, picture: bytes, own: np.ndarray) -> str:
    """As the page does."""
    at = f"/pictures/{server.tell('PUT', '/pictures/a.png', picture)['token']}"
    server.tell("POST", f"{at}/run")
    wait_until(lambda: server.tell("GET", at)["state"] == "restored")
    answer = server.ask("GET", f"{at}/file?strength=0")[1]
    shown = server.ask("GET", f"{at}/views/restored")[0]
    gone = [server.ask("DELETE", at)[0], server.ask("GET", at)[0]]
    right = same(answer, own) and (shown, gone) == (200, [204, 404])
    return "restored step by step" if right else f"wrong: {own.shape}, {shown}, {gone}"


def leave(server: Server, picture: bytes) -> str:
    """Announce more than is sent, and go."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = f"PUT /restore/a.png HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(picture) + 1000}\r\n\r\n"
        connection.sendall(head.encode() + picture)
    return "left"


def soak(server: Server, count: int) -> tuple[Counter[str], int, int]:
    """`count` visitors, VISITORS at a time. Returns what they got, and the memory after the first quarter and at the
    end, in bytes."""
    with ThreadPoolExecutor(VISITORS) as pool:
        given = Counter(pool.map(lambda number: visit(server, number), range(count // 4)))
        before = server.memory()
        given += Counter(pool.map(lambda number: visit(server, number), range(count // 4, count)))
    wait_until(lambda: server.files() == [])
    return given, before, server.memory()


def main(count: int) -> int:
    """Print what happened; returns the number of broken promises."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            given, before, after = soak(server, count)
        finally:
            server.end()
    print(f"{sum(given.values())} visitors: " + ", ".join(f"{n} {got}" for got, n in sorted(given.items())))
    growth = after / before - 1
    print(f"memory {before / 1e6:.0f} MB after a quarter, {after / 1e6:.0f} MB at the end: {growth:+.1%}")
    return sum(n for got, n in given.items() if got.startswith("wrong")) + (growth > 0.05)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="visitors in all")
    sys.exit(1 if main(parser.parse_args().count) else 0)
