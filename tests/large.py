"""Memory for a large picture: `python tests/large.py 10000 10000 [--weights photo]`.

A TIFF of that width and height is written, restored to another through the whole way, and the greatest memory that
this took is printed, beside what the process needs before it begins. Without --weights the network changes nothing, and
what the picture itself takes is measured. Linux.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from conftest import identity_restorer
from fuzz import forget_peak, memory
from synergic.batch import Job, Options, restore_files
from synergic.images import Picture, write_picture


def main(width: int, height: int, weights: str | None) -> dict[str, float]:
    """Megabytes before and at the peak, and bytes a pixel between the two."""
    loaded = {"identity": identity_restorer()} if weights is None else {}
    options = Options(weights=weights or "identity", device="cpu", loaded=loaded)
    options.check()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.tif", Path(folder) / "out.tif"
        row = (np.arange(width * 3) % 251).astype(np.uint8).reshape(1, width, 3)
        write_picture(source, Picture(np.repeat(row, height, axis=0), None, {}, None))
        before = forget_peak()
        (result,) = restore_files([Job(source, target)], options)
        assert result["status"] == "restored", result
        peak = memory("VmHWM")
    return {"before": before / 1e6, "peak": peak / 1e6, "bytes_per_pixel": (peak - before) / (width * height)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("width", type=int)
    parser.add_argument("height", type=int)
    parser.add_argument("--weights")
    arguments = parser.parse_args()
    print(json.dumps(main(arguments.width, arguments.height, arguments.weights)))
