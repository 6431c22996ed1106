"""How far pixels are inside of a silhouette, against erosion."""

import cv2
import numpy as np
import pytest

from holdprep.geometry.silhouettes import DEEPEST_PX, Inset


@pytest.mark.parametrize("margin_px", [0, 1, 3, 12])
@pytest.mark.parametrize("place", [(30, 40), (0, 0), (60, 85)])
def test_pixels_deeper_than_a_margin_are_those_that_erosion_leaves(place: tuple[int, int], margin_px: int) -> None:
    """A disc with a hole and a bar, inside of the image and across its border, where the silhouette continues."""
    mask = np.zeros((80, 120), np.uint8)
    y, x = place
    cv2.circle(mask, (x, y), 26, 1, cv2.FILLED)
    cv2.circle(mask, (x + 10, y + 5), 4, 0, cv2.FILLED)
    cv2.rectangle(mask, (x, y - 3), (x + 60, y + 3), 1, cv2.FILLED)
    every = np.stack(np.meshgrid(np.arange(120), np.arange(80)), axis=-1).reshape(-1, 2)
    eroded = cv2.erode(mask, np.ones((2 * margin_px + 1,) * 2, np.uint8)) > 0
    found = Inset.of(mask > 0)
    assert (found.at(every) > margin_px).reshape(80, 120).tolist() == eroded.tolist()
    assert found.size == (120, 80)


def test_an_empty_silhouette_and_one_that_fills_the_image() -> None:
    px = np.array([[0, 0], [5, 3], [9, 7]])
    assert Inset.of(np.zeros((8, 10), bool)).at(px).tolist() == [0, 0, 0]
    assert Inset.of(np.ones((8, 10), bool)).at(px).tolist() == [DEEPEST_PX] * 3
