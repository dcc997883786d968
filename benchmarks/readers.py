"""What readers make of odd files: ``python -m benchmarks.readers`` writes the table in docs/reading.md.

Every file is made anew with known values at known places; nobody is asked to choose, so the question is only whether a
reader shows what is there, says that something is odd, refuses, or is silently wrong.
"""

import argparse
import contextlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK

from benchmarks import report
from medinterp.errors import MedinterpError
from medinterp.io import read
from medinterp.testing.known_points import Shown, Verdict, judge
from medinterp.testing.nifti_cases import NIFTI_CASES
from medinterp.testing.nrrd_cases import NRRD_CASES
from medinterp.testing.reading_cases import DICOM_CASES, ReadingCase

PAGE = Path(__file__).parents[1] / "docs" / "reading.md"
LIMIT_S = 60
Answer = tuple[list[Shown], bool]
"""The volumes that a reader returned, and whether it said anything."""


def ours(path: Path, case: ReadingCase) -> Answer:
    try:
        volume = read(path, **case.options)
    except MedinterpError:
        return [], True
    return [Shown(volume.voxels[0], volume.grid.affine)], bool(volume.provenance.source.notes)


def simple_itk(path: Path, case: ReadingCase) -> Answer:
    with _said() as said:
        try:
            names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(path)) if path.is_dir() else (str(path),)
            image = SimpleITK.ReadImage(names if len(names) > 1 else names[0])
        except (RuntimeError, IndexError):
            return [], True
    return _from_itk(image), bool(said[0])


def _from_itk(image: SimpleITK.Image) -> list[Shown]:
    size = image.GetDimension()
    voxels = SimpleITK.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        parts = [SimpleITK.VectorIndexSelectionCast(image, n) for n in range(image.GetNumberOfComponentsPerPixel())]
        return [shown for part in parts for shown in _from_itk(part)]
    direction = np.array(image.GetDirection()).reshape(size, size)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = direction * np.array(image.GetSpacing())[:3]
    affine[:3, 3] = image.GetOrigin()[:3]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    return [Shown(one.T, affine) for one in (voxels if size > 3 else [voxels])]


def dcm2niix(path: Path, case: ReadingCase) -> Answer:
    with tempfile.TemporaryDirectory() as made:
        folder = path if path.is_dir() else path.parent
        command = ["dcm2niix", "-b", "n", "-z", "n", "-f", "%s_%e_%t", "-o", made, str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        except subprocess.TimeoutExpired:
            return [], True
        told = [line for line in (done.stdout + done.stderr).splitlines() if not re.search(_OF_ALL_PHANTOMS, line)]
        said = re.search(r"warning|error|unable|skipp|corrupt", "\n".join(told), re.IGNORECASE)
        return _from_nifti(Path(made)), said is not None


def dicom2nifti(path: Path, case: ReadingCase) -> Answer:
    import dicom2nifti

    with tempfile.TemporaryDirectory() as made, _said() as said:
        try:
            dicom2nifti.convert_directory(str(path if path.is_dir() else path.parent), made, compression=False)
        except Exception:  # noqa: BLE001  # whatever it raises is a refusal
            return [], True
        shown = _from_nifti(Path(made))
    return shown, bool(said[0])


def _from_nifti(folder: Path) -> list[Shown]:
    shown = []
    for path in sorted(folder.rglob("*.nii")):
        image = nibabel.load(path)
        try:
            voxels = np.asarray(image.dataobj)
        except OSError:  # a file that says more than it holds
            voxels = np.zeros((1, 1))
        if voxels.dtype.names or voxels.ndim < 3:
            shown.append(Shown(np.zeros((1, 1, 1)), np.eye(4)))
            continue
        frames = np.moveaxis(voxels, 3, 0) if voxels.ndim == 4 else [voxels]
        shown += [Shown(np.array(one), image.affine) for one in frames]
    return shown


@contextlib.contextmanager
def _said() -> Iterator[list[str]]:
    """Collect what is written to the standard streams by anybody, C++ included, and what Python warns or logs."""
    found = [""]
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as heard, warnings.catch_warnings():
        warnings.simplefilter("always")
        kept = [os.dup(n) for n in (1, 2)]
        handler = logging.StreamHandler(sys.stderr)
        handler.setLevel(logging.WARNING)
        logging.getLogger().addHandler(handler)
        for n in (1, 2):
            os.dup2(heard.fileno(), n)
        try:
            yield found
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            logging.getLogger().removeHandler(handler)
            for n, old in zip((1, 2), kept, strict=True):
                os.dup2(old, n)
                os.close(old)
            heard.seek(0)
            found[0] = heard.read().decode(errors="replace").strip()


_OF_ALL_PHANTOMS = "Empty protocol name|Unable to determine manufacturer"  # what dcm2niix says of a sound one too

READERS: dict[str, Callable[[Path, ReadingCase], Answer]] = {
    "medinterp": ours, "SimpleITK": simple_itk, "dcm2niix": dcm2niix, "dicom2nifti": dicom2nifti,
}  # fmt: skip
ONLY_DICOM = ("dcm2niix", "dicom2nifti")


def verdicts(case: ReadingCase) -> dict[str, Verdict | None]:
    """Return what every reader makes of a case; None for files that it does not read, or choices of our own."""
    found: dict[str, Verdict | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        path, truths = case.make(Path(folder) / "scan")
        for name, reader in READERS.items():
            others = name != "medinterp"
            if (others and (case.options or case.ours_alone)) or (case.kind != "DICOM" and name in ONLY_DICOM):
                found[name] = None
                continue
            shown, said = reader(path, case)
            found[name] = judge(shown, truths, said=said)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Ask every reader about every case, print the table and write it to docs/reading.md."""
    argparse.ArgumentParser(prog="python -m benchmarks.readers", description=__doc__).parse_args(arguments)
    if shutil.which("dcm2niix") is None:
        sys.exit("dcm2niix is missing: apt-get install dcm2niix")
    logging.getLogger("medinterp").setLevel(logging.ERROR)
    rows, counts = [], {name: Counter() for name in READERS}
    for case in (*DICOM_CASES, *NIFTI_CASES, *NRRD_CASES):
        found = verdicts(case)
        for name, verdict in found.items():
            counts[name][verdict] += 1
        rows.append([f"{case.kind}: {case.name}", *("" if v is None else v.value for v in found.values())])
        print(*rows[-1], sep="; ", flush=True)
    for verdict in Verdict:
        rows.append([f"**{verdict.value}**", *(f"**{counts[name][verdict]}**" for name in READERS)])
    version = subprocess.run(["dcm2niix", "--version"], capture_output=True, text=True, check=False).stdout.split()
    dcm2niix_version = next((word for word in version if re.match(r"v\d", word)), "")
    about = f"`python -m benchmarks.readers`; dcm2niix {dcm2niix_version}"
    packages = report.versions("medinterp", "pydicom", "nibabel", "SimpleITK", "dicom2nifti")
    text = "\n\n".join([about, report.table(["input", *READERS], rows), packages])
    report.write_section("readers", text, PAGE)


if __name__ == "__main__":
    main()
