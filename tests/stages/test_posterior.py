"""How the checkpoints' tensors are taken together."""

import numpy as np

from vdu_jax.stages import posterior


def test_small_tensors_are_folded_in_together_and_large_ones_alone(monkeypatch):
    monkeypatch.setattr(posterior, "GROUP_BYTES", 100)
    sizes = [3, 20, 2, 1, 30, 25, 1, 24, 25]
    leaves = [np.full(size, index, np.float32) for index, size in enumerate(sizes)]
    found = posterior.groups(leaves)
    assert [[len(leaf) for leaf in group] for group in found] == [
        [3, 20, 2], [1], [30], [25], [1, 24], [25]
    ]  # fmt: skip
    assert [int(leaf[0]) for group in found for leaf in group] == list(range(len(sizes)))
    assert posterior.groups([]) == []
