"""Files as scanners, archives and converters leave them, with what they are known to hold: DICOM."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from medinterp.testing import dicom_files as files
from medinterp.testing.known_points import Points, Verdict, points_of_grid, points_of_slices

AFFINE = files.oblique_affine()
VOXELS = files.stored_voxels()
MADE = tuple[Path, Sequence[Points]]


@dataclass(frozen=True)
class ReadingCase:
    """One kind of input.

    Args:
        name: what is odd about it, for a table.
        make: writes it into an empty folder; returns what to open and the volumes that it holds.
        expected: what medinterp makes of it.
        words: what its refusal or a note says, a regular expression.
        options: of ``medinterp.io.read``.
        kind: "DICOM", "NIfTI" or "NRRD".
        ours_alone: whether it is no volume of single finite numbers, which other readers may well show as what it is.
    """

    name: str
    make: Callable[[Path], MADE]
    expected: Verdict
    words: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    kind: str = "DICOM"
    ours_alone: bool = False


def _slices(**options: Any) -> list[Dataset]:
    return files.series(VOXELS, AFFINE, **options)


def _saved(
    change: Callable[[list[Dataset]], list[Dataset]] = list,
    holds: Callable[[list[Dataset], list[Dataset]], Sequence[Points]] = lambda clean, changed: [
        points_of_slices(changed)
    ],
    **options: Any,
) -> Callable[[Path], MADE]:
    """Return a maker of a folder with a changed series; it holds the changed slices unless told otherwise."""

    def make(folder: Path) -> MADE:
        changed = change(_slices(**options))
        return files.save(changed, folder), holds(_slices(**options), changed)

    return make


def _clean(clean: list[Dataset], _changed: list[Dataset]) -> Sequence[Points]:
    return [points_of_slices(clean)]


def _nothing(_clean: list[Dataset], _changed: list[Dataset]) -> Sequence[Points]:
    return []


def _and_localizer(clean: list[Dataset], changed: list[Dataset]) -> Sequence[Points]:
    return [points_of_slices(clean), replace(points_of_slices(changed[:1]), optional=True)]


def _by_size(_clean: list[Dataset], changed: list[Dataset]) -> Sequence[Points]:
    return [points_of_slices(changed[:3]), points_of_slices(changed[3:])]


def _with(**attributes: Any) -> Callable[[list[Dataset]], list[Dataset]]:
    """Set an attribute of every slice; None takes it away."""

    def change(slices: list[Dataset]) -> list[Dataset]:
        for one in slices:
            for keyword, value in attributes.items():
                if value is None:
                    delattr(one, keyword)
                else:
                    setattr(one, keyword, value)
        return slices

    return change


def _times(tag: str | None, *, lost: bool = False) -> Callable[[Path], MADE]:
    def make(folder: Path) -> MADE:
        volumes = []
        for t in range(3):
            volumes.append(files.series(VOXELS + t, AFFINE))
            for k, one in enumerate(volumes[-1]):
                one.InstanceNumber, one.SOPInstanceUID = 5 * t + k + 1, f"1.2.{t + 1}.{k + 1}"
                if tag is not None:
                    setattr(one, tag, t + 1)
        everything = [one for volume in volumes for one in volume]
        if lost:
            del everything[12], volumes[2]
        return files.save(everything, folder), [points_of_slices(volume) for volume in volumes]

    return make


def _two_series(folder: Path) -> MADE:
    one, other = _slices(), files.series(VOXELS[:, :, :3], AFFINE, name="b", series_number=2)
    return files.save([*other, *one], folder), [points_of_slices(one), points_of_slices(other)]


def _two_orientations(folder: Path) -> MADE:
    turned = files.renumbered(files.series(VOXELS, np.diag([1.0, 2.0, 1.5, 1.0]))[:3], [11, 12, 13])
    return files.save([*_slices(), *turned], folder), [points_of_slices(_slices()), points_of_slices(turned)]


def _sideways(slices: list[Dataset]) -> list[Dataset]:
    across = np.array(slices[2].ImageOrientationPatient, dtype=float)[:3]
    place = np.array(slices[2].ImagePositionPatient, dtype=float) + 0.5 * across
    slices[2].ImagePositionPatient = [f"{x:.8f}" for x in place]
    return slices


def _turned(affine: np.ndarray) -> Callable[[Path], MADE]:
    def make(folder: Path) -> MADE:
        made = files.series(VOXELS, affine)
        return files.save(made, folder), [points_of_slices(made)]

    return make


def _enhanced(modality: files.Modality, times: int, order: Sequence[int] | None = None) -> Callable[[Path], MADE]:
    def make(folder: Path) -> MADE:
        voxels = np.stack([VOXELS + 7 * t for t in range(times)])
        made = files.enhanced(voxels, AFFINE, modality=modality, order=order)
        folder.mkdir(parents=True, exist_ok=True)
        path = files.save_one(made, folder / "enhanced.dcm")
        return path, [points_of_grid(2 * one.astype(float) - np.arange(5), AFFINE) for one in voxels]

    return make


def _recoded(transfer_syntax: str, *, by_pydicom: bool = True) -> Callable[[Path], MADE]:
    """Write every slice anew in a transfer syntax."""

    def make(folder: Path) -> MADE:
        made = files.series(files.stored_voxels((64, 48, 5)), AFFINE)  # encoders refuse smaller images
        for path in sorted(files.save(made, folder).iterdir()):
            recode = _recode if by_pydicom else _recode_by_gdcm
            recode(path, transfer_syntax)
        return folder, [points_of_slices(made)]

    return make


def _recode(path: Path, transfer_syntax: str) -> None:
    one = dcmread(path)
    if transfer_syntax in (ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        one.file_meta.TransferSyntaxUID = transfer_syntax
    else:
        one.compress(transfer_syntax)
    one.save_as(path, enforce_file_format=True)


def _recode_by_gdcm(path: Path, transfer_syntax: str) -> None:
    import gdcm  # only the tests and the benchmark that make such files need it

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(transfer_syntax)))
    if not reader.Read():
        raise OSError("GDCM cannot read what is to be compressed")
    change.SetInput(reader.GetImage())
    if not change.Change():
        raise OSError(f"GDCM cannot compress to {transfer_syntax}")
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    if not writer.Write():
        raise OSError("GDCM cannot write what it compressed")
    one = dcmread(path)
    del one.SpacingBetweenSlices  # GDCM adds 1 mm
    one.save_as(path)


def _among_junk(folder: Path) -> MADE:
    made = _slices()
    files.save(made, folder)
    (folder / "readme.txt").write_text("hello")
    (folder / ".DS_Store").write_bytes(bytes(200))
    (folder / "empty").touch()
    directory = Dataset()
    directory.SOPClassUID, directory.SOPInstanceUID = "1.2.840.10008.1.3.10", "1.2.3"
    files.save_one(directory, folder / "DICOMDIR")
    return folder, [points_of_slices(made)]


def _without_preamble(folder: Path) -> MADE:
    made = _slices()
    return files.save(made, folder, preamble=False), [points_of_slices(made)]


def _cut(folder: Path) -> MADE:
    files.save(_slices(), folder, shuffled=False)
    path = folder / "0002.dcm"
    path.write_bytes(path.read_bytes()[:-30])
    return folder, []


def _linked(folder: Path) -> MADE:
    files.save(_slices(), folder / "elsewhere")
    here = files.save(_slices()[:3], folder / "here")
    for number, path in enumerate(sorted((folder / "elsewhere").iterdir())):
        (here / f"link{number}.dcm").symlink_to(path)
    followed_or_not = (points_of_slices(_slices()[:3]), points_of_slices(_slices()))
    return here, [replace(content, optional=True) for content in followed_or_not]


def _padded(folder: Path) -> MADE:
    voxels = VOXELS.copy()
    voxels[0] = -2000
    made = files.series(voxels, AFFINE, modality="CT")
    for one in made:
        one.add_new("PixelPaddingValue", "SS", -2000)
    content = points_of_slices(made)
    measured = content.values != -2000
    padded = int((~measured).sum())
    return files.save(made, folder), [Points(content.places_mm[measured], content.values[measured], padded)]


def _unsigned(slices: list[Dataset]) -> list[Dataset]:
    for one in slices:
        pixels = np.frombuffer(one.PixelData, "<i2").astype(np.uint16) * 60
        one.PixelRepresentation = 0
        one.add_new("PixelData", "OW", pixels.astype("<u2").tobytes())
    return slices


def _two_sizes(slices: list[Dataset]) -> list[Dataset]:
    return slices[:3] + files.series(VOXELS[:5], AFFINE)[3:]


def _colour(slices: list[Dataset]) -> list[Dataset]:
    for one in slices:
        one.SamplesPerPixel, one.PhotometricInterpretation, one.PlanarConfiguration = 3, "RGB", 0
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 8, 8, 7, 0
        one.PixelData = bytes(3 * 42)
    return slices


def _noisy_cosines(slices: list[Dataset]) -> list[Dataset]:
    cosines = np.array(slices[2].ImageOrientationPatient, dtype=float) + 1e-7
    slices[2].ImageOrientationPatient = [f"{x:.13f}" for x in cosines]
    return slices


def _overlay_bits(slices: list[Dataset]) -> list[Dataset]:
    """Store 12 bits and draw into the four above them, as older scanners did."""
    for one in slices:
        pixels = np.frombuffer(one.PixelData, "<i2").astype(np.uint16) | 0x8000
        one.BitsStored, one.HighBit, one.PixelRepresentation = 12, 11, 0
        one.add_new("PixelData", "OW", pixels.astype("<u2").tobytes())
    return slices


_RIGHT, _NOTED, _REFUSED = Verdict.RIGHT, Verdict.NOTED, Verdict.REFUSED
_AXES = np.array([[0, 0, 3.0, -20], [1.0, 0, 0, 5], [0, 1.25, 0, 7], [0, 0, 0, 1]])
_THICK = np.diag([0.3, 0.3, 10.0, 1.0])
_UPWARDS = np.array([1.0, 1.0, -2.5, 1.0])

DICOM_CASES: tuple[ReadingCase, ...] = (
    ReadingCase("oblique MR", _saved(), _RIGHT),
    ReadingCase("CT in HU", _saved(modality="CT", intercepts=(-1024.0,)), _RIGHT),
    ReadingCase("sagittal", _turned(_AXES), _RIGHT),
    ReadingCase("slices from head to feet", _turned(np.diag(_UPWARDS)), _RIGHT),
    ReadingCase("voxels of 0.3 x 0.3 x 10 mm", _turned(_THICK), _RIGHT),
    ReadingCase("rescale slope slice by slice", _saved(slopes=(0.5, 1.0, 2.0, 4.0, 8.0)), _NOTED, "slice by slice"),
    ReadingCase("instance numbers reversed", _saved(lambda s: files.renumbered(s, [5, 4, 3, 2, 1])), _RIGHT),
    ReadingCase("instance numbers absent", _saved(lambda s: files.renumbered(s, None)), _RIGHT),
    ReadingCase("orientation noise of 1e-7", _saved(_noisy_cosines), _RIGHT),
    ReadingCase("missing middle slice", _saved(lambda s: files.without_slice(s, 2)), _REFUSED, "1 slice is missing"),
    ReadingCase("missing end slices", _saved(lambda s: s[2:]), _NOTED, "numbering begins at 3"),
    ReadingCase("same file twice",
                _saved(lambda s: files.repeated(s, 1, same_pixels=True, same_uid=True), _clean), _NOTED, "found twice"),
    ReadingCase("same slice twice, other UID",
                _saved(lambda s: files.repeated(s, 1, same_pixels=True), _clean), _NOTED, "found twice"),
    ReadingCase("two slices at one position",
                _saved(lambda s: files.repeated(s, 1, same_pixels=False), _nothing), _REFUSED, "same position"),
    ReadingCase("unequal spacing",
                _saved(lambda s: files.moved(s, [0.0, 0.0, 0.0, 1.2, 1.2])), _REFUSED, "unequal slice spacing"),
    ReadingCase("1 % of jitter", _saved(lambda s: files.moved(s, [0.03, -0.03, 0.01, 0.03, -0.02])), _NOTED, "jitter"),
    ReadingCase("10 % of jitter",
                _saved(lambda s: files.moved(s, [0.0, 0.3, 0.0, 0.3, 0.0])), _REFUSED, "unequal slice spacing"),
    ReadingCase("one slice moved sideways", _saved(_sideways), _REFUSED, "off the regular grid"),
    ReadingCase("gantry tilt", _saved(lambda s: files.tilted(s, 18.5)), _REFUSED, "tilt of 18.5 degrees.*dcm2niix"),
    ReadingCase("tilt and unequal spacing",
                _saved(lambda s: files.tilted(files.moved(s, [0.0, 0.0, 0.0, 1.2, 2.4]), 10.0)), _REFUSED, "dcm2niix"),
    ReadingCase("localizer inside", _saved(files.with_localizer, _and_localizer), _NOTED, "localizer"),
    ReadingCase("two orientations in one series", _two_orientations, _REFUSED, "2 orientations"),
    ReadingCase("several series", _two_series, _REFUSED, "2 series"),
    ReadingCase("several series, one chosen",
                lambda f: (_two_series(f)[0], _two_series(f)[1][:1]), _RIGHT, options={"series": 1}),
    ReadingCase("time series by temporal position", _times("TemporalPositionIdentifier"), _REFUSED, "3 volumes"),
    ReadingCase("time series by echo time", _times("EchoTime"), _REFUSED, "3 volumes"),
    ReadingCase("time series without a tag", _times(None), _REFUSED, "3 volumes"),
    ReadingCase("time series that lacks a slice", _times("AcquisitionNumber", lost=True), _REFUSED, "only 2 of 3"),
    ReadingCase("slices of different sizes", _saved(_two_sizes, _by_size), _REFUSED, "different sizes"),
    ReadingCase("no position", _saved(_with(ImagePositionPatient=None), _nothing), _REFUSED, "no position"),
    ReadingCase("no orientation", _saved(_with(ImageOrientationPatient=None), _nothing), _REFUSED, "no position"),
    ReadingCase("no pixel spacing", _saved(_with(PixelSpacing=None), _nothing), _REFUSED, "Spacing"),
    ReadingCase("single slice", _saved(lambda s: s[:1]), _REFUSED, "single slice"),
    ReadingCase("colour", _saved(_colour, _nothing), _REFUSED, "colour", ours_alone=True),
    ReadingCase("mosaic",
                _saved(_with(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), _nothing), _REFUSED, "dcm2niix"),
    ReadingCase("enhanced MR, frames in any order", _enhanced("MR", 1, [3, 0, 4, 1, 2]), _NOTED, "slice by slice"),
    ReadingCase("enhanced CT", _enhanced("CT", 1), _NOTED, "slice by slice"),
    ReadingCase("enhanced time series", _enhanced("MR", 2), _REFUSED, "2 volumes"),
    ReadingCase("padding value apart from the data", _padded, _NOTED, "padding"),
    ReadingCase("unsigned 16 bits", _saved(_unsigned), _RIGHT),
    ReadingCase("overlay drawn into unused bits", _saved(_overlay_bits, _clean), _RIGHT),
    ReadingCase("implicit VR", _recoded(ImplicitVRLittleEndian), _RIGHT),
    ReadingCase("deflated", _recoded(DeflatedExplicitVRLittleEndian), _REFUSED),
    ReadingCase("RLE", _recoded(RLELossless), _RIGHT),
    ReadingCase("JPEG lossless", _recoded(JPEGLosslessSV1, by_pydicom=False), _RIGHT),
    ReadingCase("JPEG-LS", _recoded(JPEGLSLossless), _RIGHT),
    ReadingCase("JPEG 2000 lossless", _recoded(JPEG2000Lossless), _RIGHT),
    ReadingCase("junk files and a DICOMDIR", _among_junk, _NOTED, "passed over"),
    ReadingCase("no preamble", _without_preamble, _REFUSED, "--force"),
    ReadingCase("no preamble, forced", _without_preamble, _RIGHT, options={"force": True}),
    ReadingCase("truncated slice", _cut, _REFUSED),
    ReadingCase("header claims huge images", _saved(_with(Rows=60000, Columns=60000), _nothing), _REFUSED, "claims"),
    ReadingCase("links out of the folder", _linked, _NOTED, "link"),
)  # fmt: skip
"""DICOM folders and files; every row of the expected behaviour of series."""
