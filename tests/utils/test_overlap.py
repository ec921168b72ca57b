"""Work beside the caller's: order, bounds, errors."""

import threading
from collections.abc import Iterator

import pytest

from clipdense.utils.overlap import overlapped


@pytest.mark.parametrize('ahead', [1, 2, 5])
@pytest.mark.parametrize('count', [0, 1, 2, 7])
def test_results_are_those_of_map(count: int, ahead: int) -> None:
    assert list(overlapped(lambda item: item * item, range(count), ahead)) == [i * i for i in range(count)]


def test_items_are_taken_at_most_one_ahead() -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(5):
            taken.append(item)
            yield item

    results = overlapped(lambda item: item, items())
    assert taken == []
    assert next(results) == 0
    assert taken == [0, 1]
    assert next(results) == 1
    assert taken == [0, 1, 2]


def test_work_runs_in_another_thread_while_the_caller_goes_on() -> None:
    """The first work waits for the caller to take the second item: only an overlap can end this."""
    second = threading.Event()

    def items() -> Iterator[str]:
        yield 'first'
        second.set()
        yield 'second'

    def work(item: str) -> tuple[bool, bool]:
        return second.wait(10), threading.current_thread() is threading.main_thread()

    assert list(overlapped(work, items())) == [(True, False), (True, False)]


def test_an_error_of_the_work_is_raised_at_its_place() -> None:
    def work(item: int) -> float:
        return 1 / item

    results = overlapped(work, [2, 0, 4])
    assert next(results) == 0.5
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_an_error_of_the_items_comes_after_the_work_that_was_begun() -> None:
    written = []

    def items() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(overlapped(written.append, items()))
    assert written == [1]
