from __future__ import annotations

import numpy as np
import pytest

from monai_infoaug.handlers import draw_landmarks
from monai_infoaug.handlers.landmark_pictures import landmark_figure, png_bytes

Figure = pytest.importorskip("matplotlib.figure", reason="pictures need matplotlib").Figure


def test_draw_landmarks_with_labels_and_doubts():
    axes, found = Figure().subplots(), np.array([[1.0, 2.0], [3.0, 1.0], [2.0, 0.0]])
    draw_landmarks(axes, np.zeros((5, 4)), found, labels=["a", "b", "c"], low=np.array([False, True, False]))
    assert {line.get_color(): line.get_xydata().tolist() for line in axes.lines} == {
        "lime": [[1, 2], [2, 0]],
        "yellow": [[3, 1]],
    }
    assert {(text.get_text(), text.get_color(), tuple(text.xy)) for text in axes.texts} == {
        ("a", "lime", (1, 2)),
        ("b", "yellow", (3, 1)),
        ("c", "lime", (2, 0)),
    }


def test_draw_landmarks_of_a_volume_shows_its_middle():
    axes, volume = Figure().subplots(), np.random.default_rng(0).random((5, 4, 7))
    draw_landmarks(axes, volume, np.array([[1.0, 2.0, 3.0]]), np.array([[2.0, 2.0, 0.0]]))
    np.testing.assert_array_equal(axes.images[0].get_array(), volume[:, :, 3].T)
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[1, 2], [2, 2]], [[2, 2]], [[1, 2]]]


def test_figure_of_a_colour_image_has_its_colours_and_a_title():
    image = np.random.default_rng(0).random((3, 5, 4))
    figure = landmark_figure(image, np.array([[1.0, 2.0]]), "$1: 2.0 mm", ["a"], np.array([True]))
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), image.T)
    assert [text.get_text() for text in figure.texts] == ["$1: 2.0 mm"]
    width, height = figure.get_size_inches() * (1, figure.axes[0].get_position().height)
    assert width / height == pytest.approx(5 / 4)


def test_names_in_another_script_are_drawn_without_a_warning():
    figure = Figure()
    figure.suptitle("\ud55c\uae00")
    assert png_bytes(figure, 20).startswith(b"\x89PNG")


def test_names_of_landmarks_that_lie_together_or_at_the_border_can_be_read():
    found = np.array([[20.0, 20], [20.5, 20.5], [20, 21], [21, 20], [39, 5]])
    names = ["menton", "gnathion", "pogonion", "soft_pogonion", "anterior_nasal_spine"]
    figure = landmark_figure(np.zeros((1, 40, 44)), found, "", names, np.zeros(5, bool))
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not any(boxes[i].overlaps(boxes[j]) for i in range(5) for j in range(i))
    assert all(box.x1 <= figure.bbox.x1 for box in boxes)
