"""Make the picture of "Inside the network" in attribution.md from sample_data; run it without arguments."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import medinterp
from medinterp.demo import sample_folder
from medinterp.export.feature_files import picture

PICTURE = Path(__file__).parent / "images" / "features.png"
BLOCK = "body.up.1.relu"


def main() -> None:
    """Draw the two channels of a block that vary most over the head, and its first two components, in one slice."""
    scan = sample_folder() / "t1.nii.gz"
    with TemporaryDirectory() as folder:
        found = [
            medinterp.features(scan, Path(folder) / kind, kind=kind, block=BLOCK, count=2).result
            for kind in ("activations", "pca")
        ]
    maps = tuple(one for result in found for one in result.maps)
    PICTURE.write_bytes(picture(replace(found[0], kind="features", maps=maps)).png)


if __name__ == "__main__":
    main()
