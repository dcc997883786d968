"""Secondary Captures show the map's colours over the scan's grey, the right way round, with legend and warning."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from medinterp.errors import InputError
from medinterp.export.fused_colour import painter
from medinterp.export.overlay import make_overlay
from medinterp.io import colours
from medinterp.io.dicom_sc import write_secondary_capture
from medinterp.io.dicom_template import planes, template_headers
from medinterp.volume import Overlay
from tests.clients.scans import impulse, make_scan

_AT = (9, 4, 6)


def overlay_of(name: str = "oblique_mr", value: float = 2.0) -> Overlay:
    scan = make_scan(name)
    return make_overlay(scan, impulse(scan, _AT, value), name="saliency-mean", description="Saliency", signed=True)


def centre_of_voxel(picture: np.ndarray, overlay: Overlay, i: int, j: int) -> np.ndarray:
    """Return the colour at the middle of a voxel: voxels are drawn to scale over the picture's whole width."""
    (across, down), (columns, _) = overlay.map.grid.spacing_mm[:2], overlay.map.grid.shape[:2]
    pixels_per_mm = picture.shape[1] / (columns * across)
    return picture[int((j + 0.5) * down * pixels_per_mm), int((i + 0.5) * across * pixels_per_mm)].astype(int)


@pytest.mark.parametrize(("value", "entry"), [(2.0, 255), (-2.0, 0)])
@pytest.mark.parametrize("name", ["oblique_mr", "axial_ct", "nifti_reversed"])
def test_the_impulse_has_its_sign_s_colour_at_its_row_and_column_of_its_slice_only(
    name: str, value: float, entry: int
) -> None:
    overlay = overlay_of(name, value)
    drawn = [painter(overlay)(k) for k in range(overlay.base.grid.shape[2])]
    i, j, k = _AT
    found = centre_of_voxel(drawn[k], overlay, i, j)
    table = colours.diverging()[entry]
    # a tenth of the scan's grey shines through (alpha 0.9), plus rounding
    assert np.abs(found - 255 * table[:3] * table[3]).max() <= 255 * (1 - table[3]) + 1
    assert np.ptp(found) > 100
    for other in (centre_of_voxel(drawn[k], overlay, i - 2, j), centre_of_voxel(drawn[k - 1], overlay, i, j)):
        assert np.ptp(other) == 0, "grey: the map is zero there"


def test_pictures_leave_room_for_words_and_end_in_legend_and_warning() -> None:
    overlay = overlay_of()
    drawn = [painter(overlay)(k) for k in range(overlay.base.grid.shape[2])]
    assert {picture.shape for picture in drawn} == {drawn[0].shape}
    assert drawn[0].shape[1] >= 512
    strip = drawn[0][-16:].reshape(-1, 3).astype(int)
    assert (strip[:, 0] - strip[:, 2] > 100).any(), "the warning stands in yellow at the foot"


def test_the_series_cites_its_slices_in_order_and_names_the_research_use(tmp_path: Path) -> None:
    overlay = overlay_of()
    headers = template_headers(overlay.base)
    paths = write_secondary_capture(painter(overlay), headers, tmp_path / "sc", description="Colour: saliency")
    order = planes(overlay.base.grid).order
    for number, (k, path) in enumerate(zip(order, paths, strict=True), start=1):
        image = pydicom.dcmread(path)
        assert image.InstanceNumber == number
        assert image.SourceImageSequence[0].ReferencedSOPInstanceUID == headers[k].SOPInstanceUID
        assert image.StudyInstanceUID == headers[k].StudyInstanceUID
        np.testing.assert_array_equal(image.pixel_array, painter(overlay)(k))
    assert image.SeriesDescription.endswith("(research use only)")
    assert b"never copied" not in paths[0].read_bytes()


def test_pictures_of_several_sizes_are_refused(tmp_path: Path) -> None:
    headers = template_headers(make_scan("axial_ct"))

    def growing(k: int) -> np.ndarray:
        return np.zeros((4 + k, 4, 3), dtype=np.uint8)

    with pytest.raises(InputError, match=r"slice 1 has shape \(5, 4, 3\): expected \(4, 4, 3\)"):
        write_secondary_capture(growing, headers, tmp_path, description="")
    with pytest.raises(InputError, match="no template headers"):
        write_secondary_capture(growing, [], tmp_path, description="")
