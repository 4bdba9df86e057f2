from __future__ import annotations

import numpy as np
import pytest

from monai_infoaug.handlers import (
    CHANGE_COLOURS,
    INFORMATION_COLOURS,
    TIER_COLOURS,
    draw_change,
    draw_information,
    draw_tiers,
)
from monai_infoaug.information import TIERS

colors = pytest.importorskip("matplotlib.colors", reason="pictures need matplotlib")
Figure = pytest.importorskip("matplotlib.figure").Figure


def colour_of(shown, value):
    return colors.to_hex(shown.cmap(shown.norm(value)))


def test_every_tier_has_a_colour_and_no_two_are_alike():
    assert tuple(TIER_COLOURS) == TIERS
    every = [*TIER_COLOURS.values(), *CHANGE_COLOURS]
    distances = [np.abs(np.subtract(*map(colors.to_rgb, (a, b)))).sum() for a in every for b in every if a != b]
    assert len(set(every)) == len(every)
    assert min(distances) > 0.3


def test_tiers_have_their_colours_and_a_legend_and_nothing_outside():
    axes, tiers = Figure().subplots(), np.arange(6).reshape(3, 2) % 3
    draw_tiers(axes, tiers, tiers != 1)
    shown = axes.images[0]
    np.testing.assert_array_equal(shown.get_array().mask, tiers.T == 1)
    assert [colour_of(shown, tier) for tier in range(3)] == [*TIER_COLOURS.values()]
    legend = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [*TIERS]
    assert [colors.to_hex(patch.get_facecolor()) for patch in legend.get_patches()] == [*TIER_COLOURS.values()]


@pytest.mark.parametrize(("most", "scale"), [(None, True), (5.0, True), (5.0, False)])
def test_information_has_a_scale_in_bits(most, scale):
    figure, information = Figure(), np.linspace(0, 4, 12).reshape(4, 3)
    axes = figure.subplots()
    shown = draw_information(axes, information, most=most, scale=scale)
    np.testing.assert_array_equal(shown.get_array(), information.T)
    assert shown.get_clim() == (0, most or 4)
    assert (colour_of(shown, 0), colour_of(shown, most or 4)) == (INFORMATION_COLOURS[0], INFORMATION_COLOURS[-1])
    assert [each.get_xlabel() for each in figure.axes[1:]] == ["information (bits)"] * scale


def test_no_change_is_in_the_middle():
    axes, change = Figure().subplots(), np.array([[-0.2, 0.0], [0.1, 0.2]])
    shown = draw_change(axes, change, 0.2)
    np.testing.assert_array_equal(shown.get_array(), change.T)
    middle, last = len(CHANGE_COLOURS) // 2, len(CHANGE_COLOURS) - 1
    for value, number in ((-0.2, 0), (0, middle), (0.2, last)):
        found, meant = (colors.to_rgb(each) for each in (colour_of(shown, value), CHANGE_COLOURS[number]))
        np.testing.assert_allclose(found, meant, atol=0.02)  # of a map of 256 colours


@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("information", draw_information),
        ("tiers", draw_tiers),
        ("change", lambda axes, values: draw_change(axes, values, 1)),
    ],
)
def test_what_is_no_plane_is_refused(name, draw):
    with pytest.raises(ValueError, match=rf"^`{name}` must be a plane"):
        draw(Figure().subplots(), np.zeros((1, 3, 3)))
