"""FID's Inception-v3: its parameters, and the parts that set it apart from torchvision's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax.models import inception
from vdu_jax.parity import components


@pytest.fixture(scope="module")
def params():
    """Random ones, which keep activations of the order of 1."""
    return components.inception_params()


@pytest.fixture(scope="module")
def feature_fn(params):
    fn = jax.jit(inception.make_feature_fn(inception.InceptionV3(75)))
    return lambda x: np.asarray(fn(params, x))


def test_parameters_are_those_of_the_published_network():
    """94 convolutions; 23,834,568 parameters in torchvision less the last layer's 2,049,000."""
    leaves = jax.tree_util.tree_leaves_with_path(inception.param_shapes())
    sizes = {leaf: 0 for leaf in ("kernel", "scale", "bias", "mean", "var")}
    for path, shape in leaves:
        sizes[path[-1].key] += shape.size
    assert len(leaves) == 94 * 5
    assert sizes["kernel"] + sizes["scale"] + sizes["bias"] == 23_834_568 - 2_049_000
    assert sizes["mean"] == sizes["var"] == sizes["bias"] == 17_216


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("Conv2d_1a_3x3", (3, 3, 3, 32)),
        ("Conv2d_4a_3x3", (3, 3, 80, 192)),
        ("Mixed_5b.branch5x5_2", (5, 5, 48, 64)),
        ("Mixed_5d.branch_pool", (1, 1, 288, 64)),
        ("Mixed_6a.branch3x3dbl_3", (3, 3, 96, 96)),
        ("Mixed_6b.branch7x7_2", (1, 7, 128, 128)),
        ("Mixed_6e.branch7x7dbl_4", (7, 1, 192, 192)),
        ("Mixed_7a.branch7x7x3_4", (3, 3, 192, 192)),
        ("Mixed_7b.branch3x3_2a", (1, 3, 384, 384)),
        ("Mixed_7c.branch1x1", (1, 1, 2048, 320)),
    ],
)
def test_convolutions_have_the_papers_shapes(name, shape):
    found = inception.param_shapes()
    for part in name.split("."):
        found = found[part]
    assert found["conv"]["kernel"].shape == shape and found["bn"]["var"].shape == shape[-1:]


@pytest.mark.parametrize("channels", [1, 3])
def test_features_of_any_size_and_grey_or_colour(feature_fn, channels):
    x = np.random.default_rng(0).uniform(-1, 1, (2, 9, 14, channels)).astype(np.float32)
    features = feature_fn(x)
    assert features.shape == (2, 2048) and features.dtype == np.float32
    assert np.isfinite(features).all() and features.min() >= 0 and features.std() > 0.1
    np.testing.assert_allclose(feature_fn(np.repeat(x, 3 // channels, -1)), features, rtol=1e-5)
    # A batch does not mix its images.
    np.testing.assert_allclose(feature_fn(x[::-1])[::-1], features, rtol=1e-4, atol=1e-4)
    assert np.abs(features[0] - features[1]).max() > 1e-2


def seen_by_the_first_layer(net, params, x):
    """The first convolution's input, when the feature function is given x in [-1, 1]."""

    class Stop(Exception):
        pass

    def stop(next_fun, args, kwargs, context):
        if context.module.name == "Conv2d_1a_3x3":
            raise Stop(args[0])
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(stop), pytest.raises(Stop) as caught:
        inception.make_feature_fn(net)(params, x)
    return caught.value.args[0]


def test_images_are_resized_to_299_and_reach_the_network_in_its_range(params):
    """Inception, too, was trained on [-1, 1]."""
    x = np.float32([-1, 0, 1]) * np.ones((2, 4, 6, 1), np.float32)
    seen = seen_by_the_first_layer(inception.InceptionV3(), params, x)
    np.testing.assert_allclose(seen, np.float32([-1, 0, 1]) * np.ones((2, 299, 299, 1)), atol=1e-6)
    x = np.random.default_rng(0).uniform(-1, 1, (1, 75, 75, 3)).astype(np.float32)
    seen = seen_by_the_first_layer(inception.InceptionV3(75), params, x)
    np.testing.assert_allclose(seen, x, atol=1e-6)


def test_resize_is_bilinear_between_pixel_centres():
    """[0, 1] on four pixels: the outer centres lie outside and repeat the edge."""
    row = jnp.array([0.0, 1.0]).reshape(1, 1, 2, 1) * jnp.ones((1, 2, 1, 1))
    result = inception.resize(row, 4)[0, :, :, 0]
    np.testing.assert_allclose(result, np.tile([0, 0.25, 0.75, 1], (4, 1)), atol=1e-6)


def test_resize_to_fewer_pixels_does_not_smooth():
    """Six pixels on two: centres at 1 and 4, which are pixels themselves."""
    image = jnp.arange(36.0).reshape(1, 6, 6, 1)
    result = inception.resize(image, 2)[0, :, :, 0]
    np.testing.assert_allclose(result, np.arange(36).reshape(6, 6)[1::3, 1::3], atol=1e-5)


def test_averages_leave_the_padding_out():
    ones = inception.mean_pool(jnp.ones((1, 4, 5, 2)))
    np.testing.assert_allclose(ones, np.ones((1, 4, 5, 2)), rtol=1e-6)
    image = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    pooled = inception.mean_pool(image[None, :, :, None])[0, :, :, 0]
    for i in range(4):
        for j in range(5):
            window = image[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
            assert pooled[i, j] == pytest.approx(window.mean(), rel=1e-5, abs=1e-6)


def test_the_last_block_takes_maxima_and_the_one_before_means():
    pools = {}

    def note(next_fun, args, kwargs, context):
        if isinstance(context.module, inception.BlockE):
            pools[context.module.name] = context.module.pool
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(note):
        inception.param_shapes()
    assert pools == {"Mixed_7b": inception.mean_pool, "Mixed_7c": inception.max_pool}
    negative = -jnp.ones((1, 3, 3, 1))
    np.testing.assert_array_equal(inception.max_pool(negative), negative)


def test_the_norm_uses_its_stored_statistics():
    x = np.random.default_rng(0).normal(5, 3, (4, 2, 2, 3)).astype(np.float32)
    rng = np.random.default_rng(1)
    values = {k: rng.uniform(0.5, 2, 3).astype(np.float32) for k in ("scale", "bias", "mean")}
    values["var"] = np.float32([1e-3, 1, 4])
    expected = (x - values["mean"]) / np.sqrt(values["var"] + 1e-3)
    expected = expected * values["scale"] + values["bias"]
    result = inception.StoredNorm().apply({"params": values}, x)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
