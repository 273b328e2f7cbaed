"""A noisy photograph becomes clean: `python examples/demo.py FOLDER`."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from skimage.data import chelsea
from torch import Generator

from synergic.data import to_tensor, to_uint8
from synergic.degradations import CameraNoise
from synergic.images import Picture, read_pixels, write_picture
from synergic.metrics import psnr

SEED = 0
NOISE = CameraNoise(shot_min=1.2e-2, shot_max=1.2e-2, clean=0)  # a phone in the dark


def main(folder: Path) -> None:
    """Degrade, restore through the command, compare."""
    clean = np.ascontiguousarray(chelsea())
    degraded = to_uint8(NOISE(to_tensor(clean), Generator().manual_seed(SEED))[0])
    save(folder / "degraded.png", degraded)
    command = [
        sys.executable,
        "-m",
        "synergic",
        "restore",
        str(folder / "degraded.png"),
        "-o",
        str(folder / "restored.png"),
    ]
    subprocess.run([*command, "--overwrite"], check=True)
    restored = read_pixels(folder / "restored.png")
    save(folder / "side-by-side.png", np.concatenate([degraded, restored, clean], axis=1))
    print(
        f"camera noise, seed {SEED}: degraded {psnr(degraded, clean):.2f} dB, restored {psnr(restored, clean):.2f} dB"
    )
    print(f"degraded | restored | clean: {folder / 'side-by-side.png'}")


def save(path: Path, pixels: np.ndarray) -> None:
    """Write pixels, replacing an earlier run's."""
    write_picture(path, Picture(pixels, None, {}, None), overwrite=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
