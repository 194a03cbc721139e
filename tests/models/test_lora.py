import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from vdu_jax.models import lora

PARAMS = {
    "dense": {"kernel": jnp.ones((20, 30)), "bias": jnp.ones(30)},
    "conv": {"kernel": jnp.ones((3, 3, 4, 16))},
    "small": {"kernel": jnp.ones((2, 2))},
    "norm": {"scale": jnp.ones(30)},
}


def test_adapters_are_of_matrices_larger_than_they_are_and_change_nothing_at_first():
    adapters = lora.init_adapters(PARAMS, 2, jax.random.key(0))
    assert set(adapters) == {"dense/kernel", "conv/kernel"}
    assert adapters["conv/kernel"]["down"].shape == (36, 2)
    assert adapters["conv/kernel"]["up"].shape == (2, 16)
    chex.assert_trees_all_equal(lora.merge_adapters(adapters, PARAMS), PARAMS)


def test_what_is_added_has_the_rank():
    adapters = lora.init_adapters(PARAMS, 2, jax.random.key(0))
    moved = jax.tree.map(lambda a: a + 0.1 * jnp.arange(a.size).reshape(a.shape) / a.size, adapters)
    merged = traverse_util.flatten_dict(lora.merge_adapters(moved, PARAMS), sep="/")
    before = traverse_util.flatten_dict(PARAMS, sep="/")
    for path, leaf in merged.items():
        change = np.asarray(leaf - before[path]).reshape(-1, leaf.shape[-1])
        assert np.linalg.matrix_rank(change, tol=1e-5) == (
            0 if path not in adapters else np.linalg.matrix_rank(moved[path]["up"])
        )
        if path in adapters:
            np.testing.assert_allclose(change, moved[path]["down"] @ moved[path]["up"], atol=1e-6)


def test_the_drawn_side_has_unit_gain():
    adapters = lora.init_adapters({"a": {"kernel": jnp.ones((4000, 3000))}}, 8, jax.random.key(1))
    x = np.random.default_rng(0).normal(size=(50, 4000))
    assert np.std(x @ np.asarray(adapters["a/kernel"]["down"])) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize(("rank", "said"), [(0, "rank must be"), (64, "no matrix is larger")])
def test_an_impossible_rank_is_refused(rank, said):
    with pytest.raises(ValueError, match=said):
        lora.init_adapters(PARAMS, rank, jax.random.key(0))
