"""The layers against flax, NumPy and SciPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import scipy.special

from vdu_jax.models import layers


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def randomised(module, *inputs, seed=0):
    """Parameters of `module` with every entry drawn from N(0, 0.3²): no zeros, no ones."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: (0.3 * rng.normal(size=p.shape)).astype(np.float32), shapes)


def np_conv(x, params, pads, stride=1):
    """Cross-correlation in float64, one channel pair at a time."""
    kernel = np.asarray(params["kernel"], np.float64)
    x = np.pad(np.asarray(x, np.float64), ((0, 0), pads, pads, (0, 0)))
    planes = [
        [
            sum(
                scipy.signal.correlate2d(image[..., i], kernel[..., i, o], mode="valid")
                for i in range(kernel.shape[2])
            )[::stride, ::stride]
            for o in range(kernel.shape[3])
        ]
        for image in x
    ]
    return np.moveaxis(np.array(planes), 1, -1) + params["bias"]


def np_group_norm(x, params, groups, eps):
    x = np.asarray(x, np.float64)
    grouped = x.reshape(*x.shape[:-1], groups, -1)
    axes = (*range(1, x.ndim - 1), -1)
    mean, var = grouped.mean(axes, keepdims=True), grouped.var(axes, keepdims=True)
    normed = ((grouped - mean) / np.sqrt(var + eps)).reshape(x.shape)
    return normed * params["scale"] + params["bias"]


def np_silu(x):
    return x * scipy.special.expit(x)


def np_dense(x, params):
    return x @ np.asarray(params["kernel"], np.float64) + params["bias"]


GROUP_NORM_CASES = [((2, 4, 6, 8), 4, 1e-6), ((3, 5, 5, 6), 1, 1e-3), ((2, 7, 8), 8, 0.1)]


@pytest.mark.parametrize(("shape", "groups", "eps"), GROUP_NORM_CASES)
def test_group_norm_is_flax_group_norm_in_value_and_gradient(shape, groups, eps):
    ours, flax = layers.GroupNorm(groups, eps), nn.GroupNorm(groups, epsilon=eps)
    x = 2 * normal(1, *shape) + 1
    params = randomised(flax, x)
    shapes = jax.eval_shape(ours.init, jax.random.key(0), x)["params"]
    assert jax.tree.map(np.shape, shapes) == jax.tree.map(np.shape, params)
    weight = normal(2, *shape)

    def run(module):
        def scalar(params, x):
            out = module.apply({"params": params}, x)
            return (out * weight).sum(), out

        return jax.jit(jax.grad(scalar, argnums=(0, 1), has_aux=True))(params, x)

    (grads, out), (flax_grads, flax_out) = run(ours), run(flax)
    np.testing.assert_allclose(out, flax_out, rtol=1e-4, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), grads, flax_grads
    )


def test_group_norm_keeps_its_digits_far_from_zero():
    x = 1000 + normal(0, 2, 4, 4, 8)
    params = {"scale": np.ones(8, np.float32), "bias": np.zeros(8, np.float32)}
    out = layers.GroupNorm(2).apply({"params": params}, x)
    np.testing.assert_allclose(out, np_group_norm(x, params, 2, 1e-6), atol=1e-3)


def test_group_norm_computes_statistics_in_float32_and_returns_dtype():
    x = (10 + normal(0, 2, 8, 8, 8)).astype(jnp.bfloat16)
    params = {"scale": np.ones(8, np.float32), "bias": np.zeros(8, np.float32)}
    out = layers.GroupNorm(2, dtype=jnp.bfloat16).apply({"params": params}, x)
    assert out.dtype == jnp.bfloat16
    expected = np_group_norm(np.asarray(x, np.float32), params, 2, 1e-6)
    np.testing.assert_allclose(out.astype(jnp.float32), expected, rtol=2**-7, atol=1e-2)


def test_group_norm_rejects_channels_that_do_not_divide():
    with pytest.raises(ValueError, match="6 channels are not divisible into 4 groups"):
        layers.GroupNorm(4).init(jax.random.key(0), np.zeros((1, 2, 2, 6), np.float32))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("freq_shift", [0.0, 1.0])
@pytest.mark.parametrize("dim", [8, 9, 32])
def test_timestep_embedding_formula(dim, freq_shift, flip):
    t = np.array([0.0, 1.0, 17.5, 999.0])
    half = dim // 2
    angles = t[:, None] * 10_000.0 ** (-np.arange(half) / (half - freq_shift))
    first, second = (np.cos, np.sin) if flip else (np.sin, np.cos)
    expected = np.concatenate([first(angles), second(angles), np.zeros((4, dim % 2))], -1)
    out = layers.timestep_embedding(
        jnp.asarray(t, jnp.float32), dim, flip_sin_to_cos=flip, freq_shift=freq_shift
    )
    assert out.shape == (4, dim) and out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, atol=3e-4)


def test_timestep_embedding_too_small_for_its_shift():
    with pytest.raises(ValueError, match="must be < 1 for a time embedding of size 3"):
        layers.timestep_embedding(jnp.zeros(2), 3, freq_shift=1.0)


def test_timestep_embedding_takes_integer_times():
    t = np.array([3, 40], np.int32)
    np.testing.assert_array_equal(
        layers.timestep_embedding(t, 8), layers.timestep_embedding(t.astype(np.float32), 8)
    )


def test_time_mlp_is_two_dense_layers_with_silu_between():
    x = normal(0, 3, 6)
    net = layers.TimestepEmbedding(10)
    params = randomised(net, x)
    expected = np_dense(np_silu(np_dense(x, params["linear_1"])), params["linear_2"])
    np.testing.assert_allclose(net.apply({"params": params}, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 3), (3, 5)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pads", [[(1, 1), (1, 1)], [(1, 2), (2, 1)]])
def test_a_conv_on_few_pixels_is_xlas_in_value_and_gradients(size, stride, pads):
    x = jax.random.normal(jax.random.key(0), (2, *size, 4))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 4, 5))
    names = ("NHWC", "HWIO", "NHWC")

    def xlas(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), pads, dimension_numbers=names
        )

    def ours(x, kernel):
        return layers.convolve(x, kernel, (stride, stride), pads, dimension_numbers=names)

    wanted, back = jax.vjp(xlas, x, kernel)
    found, back_of_ours = jax.vjp(ours, x, kernel)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    cotangent = jax.random.normal(jax.random.key(2), wanted.shape)
    for a, b in zip(back_of_ours(cotangent), back(cotangent), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("padding", "pads"), [(0, (0, 1)), (1, (1, 1))])
def test_downsample_is_a_strided_correlation(padding, pads):
    x = normal(0, 2, 8, 6, 2)
    net = layers.Downsample(3, padding)
    params = randomised(net, x)
    out = net.apply({"params": params}, x)
    assert out.shape == (2, 4, 3, 3)
    expected = np_conv(x, params["conv"], pads, stride=2)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_upsample_repeats_the_nearest_pixel_then_convolves():
    x = normal(0, 2, 3, 4, 2)
    net = layers.Upsample(3)
    params = randomised(net, x)
    repeated = x.repeat(2, axis=1).repeat(2, axis=2)
    out = net.apply({"params": params}, x)
    assert out.shape == (2, 6, 8, 3)
    expected = np_conv(repeated, params["conv"], (1, 1))
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale_shift", ["default", "scale_shift"])
@pytest.mark.parametrize("features", [8, 4])
def test_resnet_block_against_numpy(scale_shift, features):
    x, temb = normal(0, 2, 4, 3, 8), normal(1, 2, 5)
    net = layers.ResnetBlock(
        features, num_groups=2, time_scale_shift=scale_shift, output_scale_factor=1.4
    )
    p = randomised(net, x, temb)
    h = np_conv(np_silu(np_group_norm(x, p["norm1"], 2, 1e-6)), p["conv1"], (1, 1))
    time = np_dense(np_silu(temb), p["time_emb_proj"])[:, None, None]
    if scale_shift == "default":
        h = np_group_norm(h + time, p["norm2"], 2, 1e-6)
    else:
        scale, shift = time[..., :features], time[..., features:]
        h = np_group_norm(h, p["norm2"], 2, 1e-6) * (1 + scale) + shift
    h = np_conv(np_silu(h), p["conv2"], (1, 1))
    assert ("conv_shortcut" in p) == (features != 8)
    skip = np_conv(x, p["conv_shortcut"], (0, 0)) if features != 8 else x
    out = jax.jit(net.apply)({"params": p}, x, temb)
    np.testing.assert_allclose(out, (skip + h) / 1.4, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("head_dim", "heads"), [(None, 1), (4, 2), (2, 4)])
def test_attention_against_numpy(head_dim, heads):
    x = normal(0, 2, 3, 4, 8)
    net = layers.AttentionBlock(num_groups=2, head_dim=head_dim, output_scale_factor=1.3)
    p = randomised(net, x)
    h = np_group_norm(x, p["group_norm"], 2, 1e-6).reshape(2, 12, 8)
    query, key, value = (np_dense(h, p[name]) for name in ("to_q", "to_k", "to_v"))
    size = 8 // heads
    mixed = np.zeros_like(h)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        logits = query[..., part] @ key[..., part].swapaxes(1, 2) / np.sqrt(size)
        mixed[..., part] = scipy.special.softmax(logits, axis=-1) @ value[..., part]
    expected = (x + np_dense(mixed, p["to_out"]).reshape(x.shape)) / 1.3
    out = jax.jit(net.apply)({"params": p}, x)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("implementation", "dtype", "size", "length", "chosen"),
    [
        ("xla", jnp.bfloat16, 64, 6, "xla"),
        ("cudnn", jnp.bfloat16, 64, 6, "cudnn"),
        ("cudnn", jnp.float16, 128, 6, "cudnn"),
        ("cudnn", jnp.float32, 64, 6, "xla"),
        ("cudnn", jnp.bfloat16, 136, 6, "xla"),  # more channels than the kernel takes
        ("cudnn", jnp.bfloat16, 20, 6, "xla"),  # no multiple of 8
        ("cudnn", jnp.bfloat16, 64, 7, "xla"),  # attention to something else
    ],
)
def test_cudnn_is_asked_for_what_it_takes(monkeypatch, implementation, dtype, size, length, chosen):
    asked = []
    monkeypatch.setattr(
        jax.nn, "dot_product_attention", lambda *qkv, implementation: asked.append(implementation)
    )
    query, key = (jnp.zeros((2, n, 3, size), dtype) for n in (6, length))
    layers.attend(query, key, key, implementation)
    assert asked == [chosen]


@pytest.mark.parametrize("name", ["resnet", "attention"])
def test_blocks_start_as_the_identity(name):
    x, temb = normal(0, 2, 4, 4, 8), normal(1, 2, 5)
    net, inputs = {
        "resnet": (layers.ResnetBlock(8, num_groups=2), (x, temb)),
        "attention": (layers.AttentionBlock(num_groups=2), (x,)),
    }[name]
    out = jax.jit(lambda key: net.init_with_output(key, *inputs)[0])
    np.testing.assert_array_equal(out(jax.random.key(0, impl="rbg")), x)
