"""Mass, rank and pointing of maps whose place is known."""

import pytest
import torch

from medinterp.assessment.localisation import localisation
from medinterp.errors import InputError


def region():
    inside = torch.zeros(5, 6, 7, dtype=torch.bool)
    inside[1:3, 2:4, 3:5] = True
    return inside


def test_a_map_in_the_region_lies_all_in_it_and_its_complement_not_at_all():
    inside = localisation(-region()[None].double(), region())
    outside = localisation((~region())[None].double(), region())
    assert (inside.mass, inside.rank, inside.pointing) == (1.0, 1.0, True)
    assert (outside.mass, outside.pointing) == (0.0, False)
    assert inside.by_chance == pytest.approx(8 / 210)


def test_channels_are_summed_before_their_magnitude_counts():
    found = torch.stack([region().double(), -region().double()])
    found[0, 0, 0, 0] = 1
    assert localisation(found, region()).mass == 0.0


def test_a_constant_map_has_the_mass_of_chance():
    found = localisation(torch.ones(1, 5, 6, 7), region())
    assert found.mass == pytest.approx(found.by_chance)


def test_other_grids_empty_regions_and_empty_maps_are_refused():
    with pytest.raises(InputError, match="expected one grid"):
        localisation(torch.ones(1, 5, 6, 6), region())
    with pytest.raises(InputError, match="0 inside"):
        localisation(torch.ones(1, 5, 6, 7), torch.zeros_like(region()))
    with pytest.raises(InputError, match="zero everywhere"):
        localisation(torch.zeros(1, 5, 6, 7), region())
