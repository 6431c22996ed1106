"""The cut finds the labels of least cost, keeps away from excluded labels, and ends at edges of the image."""

import itertools

import numpy as np

from holdprep.segmenters.cut import FORBIDDEN, Superpixels, cut

RNG = np.random.default_rng(0)


def random_problem(labels: int, size: int = 6) -> tuple[Superpixels, np.ndarray]:
    pairs = np.array([(i, j) for i in range(size) for j in range(i + 1, size) if RNG.random() < 0.6])
    return Superpixels(np.arange(size).reshape(2, 3), np.ones(size), pairs, 2 * RNG.random(len(pairs))), 3 * RNG.random((2, 3, labels))


def energy(superpixels: Superpixels, costs: np.ndarray, labels: np.ndarray) -> float:
    ends = labels[superpixels.pairs]
    return float(costs.reshape(len(labels), -1)[np.arange(len(labels)), labels].sum() + superpixels.weights[ends[:, 0] != ends[:, 1]].sum())


def least(superpixels: Superpixels, costs: np.ndarray) -> float:
    count = costs.shape[-1]
    return min(energy(superpixels, costs, np.array(labels)) for labels in itertools.product(range(count), repeat=6))


def test_two_labels_have_the_least_cost_of_all_labelings():
    for _ in range(40):
        superpixels, costs = random_problem(2)
        found = energy(superpixels, costs, cut(superpixels, costs).ravel().astype(int))
        assert found <= least(superpixels, costs) + 0.1  # capacities are rounded to 0.01


def test_four_labels_have_nearly_the_least_cost():
    excess = []
    for _ in range(30):
        superpixels, costs = random_problem(4)
        found = energy(superpixels, costs, cut(superpixels, costs).ravel().astype(int))
        excess.append(found / least(superpixels, costs) - 1)
    assert max(excess) < 0.1 and np.mean(excess) < 0.01


def test_an_excluded_label_is_not_taken_though_it_is_cheap():
    superpixels, costs = random_problem(3)
    costs[..., 1] = -5
    costs[0, 0, 1] = FORBIDDEN
    found = cut(superpixels, costs)
    assert found[0, 0] != 1 and (found.ravel()[1:] == 1).sum() >= 4


def test_a_region_between_edges_takes_one_label_from_few_pixels():
    image = np.full((60, 90, 3), 90, np.uint8)
    image[15:45, 20:70] = (60, 140, 200)
    image += RNG.integers(0, 5, image.shape, np.uint8)
    costs = np.zeros((60, 90, 3))
    costs[28:32, 40:50, [0, 2]] = 8.0  # label 1 is certain in the middle
    costs[:5, :, [1, 2]] = costs[-5:, :, [1, 2]] = 8.0
    found = cut(Superpixels.of(image, 5.0), costs)
    truth = np.zeros((60, 90), bool)
    truth[15:45, 20:70] = True
    assert ((found == 1) & truth).sum() / ((found == 1) | truth).sum() > 0.95 and not (found == 2).any()
