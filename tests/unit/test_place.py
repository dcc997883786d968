"""A map is shown only where its measurement's gradient is."""

import pytest
import torch

from medinterp.assessment.place import require_in_place
from medinterp.errors import MethodNotValid


def gradient():
    slopes = torch.full((1, 10, 10, 10), 1e-6)
    slopes[0, 2:4, 2:4, 2:4] = torch.tensor([1.0, -1.0])
    return slopes


def test_a_map_on_the_gradients_voxels_is_in_place_whatever_its_signs():
    require_in_place(-3 * gradient().abs(), gradient(), "any")


def test_a_map_spread_over_the_scan_is_refused_with_the_numbers():
    with pytest.raises(MethodNotValid, match=r"99% of the map by rule lies outside of the 0\.8% of the voxels"):
        require_in_place(torch.ones(1, 10, 10, 10), gradient(), "rule")


def test_half_of_the_map_is_where_the_line_is():
    inside, outside = gradient().abs() > 0.5, gradient().abs() < 0.5
    share = inside / inside.sum(), outside / outside.sum()
    require_in_place(0.51 * share[0] + 0.49 * share[1], gradient(), "any")
    with pytest.raises(MethodNotValid, match="51%"):
        require_in_place(0.49 * share[0] + 0.51 * share[1], gradient(), "any")


def test_a_gradient_spread_over_the_scan_has_no_place_to_miss():
    require_in_place(torch.ones(1, 10, 10, 10), torch.ones(1, 10, 10, 10), "any")


@pytest.mark.parametrize("scale", [(0.0, 1.0), (1.0, 0.0)])
def test_what_is_zero_everywhere_is_left_to_other_checks(scale):
    require_in_place(scale[0] * gradient(), scale[1] * gradient(), "any")
