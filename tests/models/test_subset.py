import chex
import jax.numpy as jnp
import pytest
from flax import traverse_util

from vdu_jax.interop.stable_diffusion import PARTS
from vdu_jax.models import subset
from vdu_jax.models.stable_diffusion import unet_condition

PARAMS = {"conv": {"kernel": jnp.ones(2)}, "block": {"attn2": {"to_q": {"kernel": jnp.ones(3)}}}}


@pytest.mark.parametrize("which", ["all", "cross_attention", "not_cross_attention", "^conv/k"])
def test_the_parts_make_the_whole_again(which):
    part, rest = subset.split(PARAMS, which)
    assert len(traverse_util.flatten_dict(part)) == {"all": 2}.get(which, 1)
    chex.assert_trees_all_equal(subset.merge(part, rest), PARAMS)


def test_cross_attention_of_stable_diffusion_has_the_known_size():
    """ESD-x of Stable Diffusion 1: 16 blocks, each q, k, v and out with its bias."""
    shapes = PARTS["unet"].param_shapes(unet_condition.UNetCondition())
    part, rest = (traverse_util.flatten_dict(p) for p in subset.split(shapes, "cross_attention"))
    widths = 5 * [320] + 5 * [640] + 6 * [1280]
    expected = sum(2 * w * w + 2 * w * 768 + w for w in widths)
    assert sum(leaf.size for leaf in part.values()) == expected
    assert sum(leaf.size for leaf in rest.values()) == 859_520_964 - expected
    other = traverse_util.flatten_dict(subset.split(shapes, "not_cross_attention")[0])
    assert set(other) == set(rest)


@pytest.mark.parametrize(("which", "said"), [("attn3", "no parameter"), ("(", "not a regular")])
def test_what_names_nothing_is_refused(which, said):
    with pytest.raises(ValueError, match=said):
        subset.split(PARAMS, which)
