"""What several processes agree on; with real processes in test_parallel.py and launch/."""

import pytest

from vdu_jax.errors import UserError
from vdu_jax.runtime import processes


@pytest.mark.parametrize(
    ("coordinator", "which", "line"),
    [
        ("here", {"processes": 2, "process": 0}, "--coordinator=here: must be HOST:PORT, or auto"),
        ("here:port", {"processes": 2, "process": 0}, "must be HOST:PORT"),
        ("here:1", {"processes": 2}, "needs --processes=N and --process=I"),
        ("here:1", {"processes": 2, "process": 2}, "I from 0 to N - 1"),
        ("auto", {"processes": 2}, "leave them out"),
        ("auto", {}, "the processes do not meet"),  # no cluster here
    ],
)
def test_how_to_meet_is_checked(coordinator, which, line):
    with pytest.raises(UserError, match=line):
        processes.connect(coordinator, **which)


def test_alone_everything_is_a_plain_call():
    assert processes.is_leader() and processes.count() == 1 and not processes.joined()
    value = object()
    assert processes.from_leader(lambda: value) is value
    assert processes.gather([value]) == [value]
    assert [processes.Largest()(n) for n in (3, 0)] == [3, 0]
