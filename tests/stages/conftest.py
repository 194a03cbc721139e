"""What the tests of several stages need."""

import pytest

from vdu_jax.data import source as source_lib


@pytest.fixture
def reads(monkeypatch):
    """The indices of the training split that are read: a set that grows."""
    seen, real = set(), source_lib.ImageSource.__init__

    def watched(self, fetch, *args, **kwargs):
        def noted(indices):
            seen.update(indices)
            return fetch(indices)

        # Views read through the whole split, which alone knows its own indices.
        real(self, fetch if "subset" in fetch.__qualname__ else noted, *args, **kwargs)

    monkeypatch.setattr(source_lib.ImageSource, "__init__", watched)
    return seen
