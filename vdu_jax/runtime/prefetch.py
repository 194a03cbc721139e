"""Prefetch the next item of an iterable in a thread."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")


def one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Prefetch one item: it is made in a thread while the item before it is used.

    Two items are in memory at a time. An exception in the thread is raised where its item is due.

    Args:
      items: an iterable that takes time to make its items.

    Yields:
      The same items, in the same order.
    """
    iterator = iter(items)
    end: Any = object()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="one_ahead") as thread:
        coming = thread.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, iterator, end)
            yield item
            del item  # frees its memory while this waits for the next item
