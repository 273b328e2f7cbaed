"""The page as visitors see it: `python tests/screenshots.py FOLDER` writes page.png and phone.png there.

A photograph with a phone's noise is handed in and restored with the published weights. Needs
Chromium.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright
from skimage.data import chelsea
from torch import Generator

from soak import Server
from synergic.data import to_tensor, to_uint8
from synergic.degradations import CameraNoise
from synergic.images import Picture, write_picture

NOISE = CameraNoise(shot_min=1.2e-2, shot_max=1.2e-2, clean=0)  # a phone in the dark
SIZES = {"page": (1120, 640), "phone": (390, 844)}


def main(folder: Path) -> None:
    """One picture for each size of screen."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        photo = Path(name, "cat.png")
        degraded = to_uint8(NOISE(to_tensor(np.ascontiguousarray(chelsea())), Generator().manual_seed(0))[0])
        write_picture(photo, Picture(degraded, None, {}, None))
        server = Server(Path(name))
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for screen, (width, height) in SIZES.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(server.url)
            page.set_input_files(".drop input", photo)
            page.wait_for_selector(".names li.restored")
            page.wait_for_function("document.querySelector('img.restored').naturalWidth > 0")
            page.screenshot(path=folder / f"{screen}.png")
            page.close()
        browser.close()
        server.end()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    main(parser.parse_args().folder)
