"""One item ahead, no more, and in order."""

import threading

import pytest

from vdu_jax.runtime import prefetch


def test_the_next_item_is_made_while_this_one_is_used():
    made, second = [], threading.Event()

    def items():
        for number in range(5):
            made.append((number, threading.current_thread().name))
            if number == 1:
                second.set()
            yield number

    seen = []
    for number in prefetch.one_ahead(items()):
        if number == 0:
            assert second.wait(20)  # made though the first is not done with
        assert len(made) <= number + 2
        seen.append(number)
    assert seen == list(range(5))
    assert all(name.startswith("one_ahead") for _, name in made)


def test_what_goes_wrong_is_raised_where_the_item_is_due():
    def items():
        yield 1
        raise OSError("no such tree")

    coming = prefetch.one_ahead(items())
    assert next(coming) == 1
    with pytest.raises(OSError, match="no such tree"):
        next(coming)
