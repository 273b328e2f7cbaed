"""The pictures of the ablation: `python training/held_out.py TRAIN VALIDATION -o held-out`.

held-out/train gets TRAIN without the pictures that repetitive.txt lists, held-out/val the middle 256 x 256 of those of
VALIDATION, held-out/repetitive the middle of the listed ones of both.
"""

import argparse
import shutil
from pathlib import Path

from synergic.files import whole_file
from synergic.images import Picture, find_pictures, read_pixels, write_picture

SIZE = 256
"""Side of what is evaluated, in pixels."""


def main(train: Path, validation: Path, out: Path) -> None:
    """Fill the three folders; pictures that are there already raise SynergicError."""
    listed = set((Path(__file__).parent / "repetitive.txt").read_text().split())
    for path, relative in find_pictures([train]):
        if relative.stem in listed:
            cut(path, out / "repetitive")
        else:
            with whole_file(out / "train" / relative) as copy:
                shutil.copyfile(path, copy)
    for path, relative in find_pictures([validation]):
        cut(path, out / "val")
        if relative.stem in listed:
            cut(path, out / "repetitive")


def cut(path: Path, folder: Path) -> None:
    """The middle of a picture, as a PNG of its name; all of it, where it is smaller."""
    pixels = read_pixels(path)
    top, left = (max(0, length - SIZE) // 2 for length in pixels.shape[:2])
    middle = pixels[top : top + SIZE, left : left + SIZE]
    write_picture(folder / f"{path.stem}.png", Picture(middle, None, {}, None))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("validation", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()
    main(arguments.train, arguments.validation, arguments.out)
