"""Work in threads: the results' order, and how many items are taken ahead."""

import threading
from collections.abc import Iterator

import pytest

from holdprep.threads import in_order


@pytest.mark.parametrize("threads", [1, 3])
def test_results_are_in_order_and_few_items_are_taken_ahead(threads: int) -> None:
    taken: list[int] = []
    wait = threading.Event()

    def items() -> Iterator[int]:
        for i in range(20):
            taken.append(i)
            yield i

    def square(i: int) -> int:
        wait.wait(0.001 * (i % 3))
        return i * i

    for k, found in enumerate(in_order(square, items(), threads, ahead=4)):
        assert found == k * k and len(taken) <= k + 5
    assert len(taken) == 20


def test_an_error_reaches_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda i: 1 // i, [1, 0], 2, ahead=1))
