"""Workers of Ray that die: `python tests/dying_workers.py Deadly|Stillborn` prints what becomes of four files."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from synergic.batch import Job, Options
from synergic.cluster import Worker, answers, ray_at
from synergic.errors import SynergicError


class Deadly(Worker):
    """Dies over files of that name, and restores the others without a look."""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if Path(row["source"]).stem == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"number": row["number"], "result": json.dumps({"status": "restored"})}


class Stillborn(Worker):
    """Never starts."""

    def __init__(self, options: Options) -> None:  # noqa: ARG002 - as a worker's
        raise RuntimeError("no such module\non this machine")


def main(kind: str) -> int:
    """Print a line of JSON for each file. The exit code of a run that failed is 2."""
    jobs = [Job(Path(f"{name}.png"), Path("out", f"{name}.png")) for name in ("a", "deadly", "b", "c")]
    try:
        with ray_at("local") as ray:
            for result in answers(ray, jobs, Options(), {"Deadly": Deadly, "Stillborn": Stillborn}[kind]):
                print(json.dumps(result), file=sys.__stdout__)
    except SynergicError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
