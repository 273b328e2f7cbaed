"""Requests of any shape: `python tests/any_requests.py --count 100`.

schemathesis reads what a `synergic serve` of its own says of itself in /openapi.json, and sends up to `count` requests
for each route, good ones and bad ones. No answer may be an error of the server or another than it says; it must log
nothing but that some were no HTTP, keep no file and ask nobody outside. Exit code 1 if a promise was broken. Needs
schemathesis, or uv, which fetches it.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from soak import Server

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"

NO_HTTP = "WARNING:  Invalid HTTP request received."


def main(count: int, seed: int) -> int:
    """Print what schemathesis tells; returns its exit code."""
    found = shutil.which("schemathesis")
    if found is None and shutil.which("uvx") is None:
        sys.exit("expected schemathesis, or uv, which fetches it, got neither; pip install schemathesis==4.32.5")
    program = [found] if found else ["uvx", "schemathesis==4.32.5"]
    asked = ["--checks", CHECKS, "--max-examples", str(count), "--seed", str(seed), "--generation-database", "none"]
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            command = [*program, "run", f"{server.url}/openapi.json", *asked]
            code = subprocess.run(command, check=False, cwd=folder).returncode
        finally:
            server.end(NO_HTTP)
    return code


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="requests for each route")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.exit(main(arguments.count, arguments.seed))
