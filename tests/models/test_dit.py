"""The diffusion transformer: its size, its start, its patches, and what its switches change."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax import config as vdu_config
from vdu_jax.errors import UserError
from vdu_jax.models import dit, layers, network

TINY = dict(out_channels=3, patch_size=2, hidden_size=16, depth=3, num_heads=2)
SHAPE = (8, 12, 3)


def param_shapes(net, shape=SHAPE):
    return jax.eval_shape(lambda key: network.init_params(net, key, shape), jax.random.key(0))


def count(net, shape):
    return sum(leaf.size for leaf in jax.tree.leaves(param_shapes(net, shape)))


def randomised(net, shape=SHAPE, seed=0):
    """Random parameters: at initialisation the output is 0, which would hide everything."""
    rng = np.random.default_rng(seed)
    shapes = param_shapes(net, shape)
    return jax.tree.map(lambda p: (0.2 * rng.normal(size=p.shape)).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def tiny():
    """A small network with dropout, its compiled score function, parameters and inputs."""
    net = dit.DiT(**TINY, dropout=0.5)
    xt = np.random.default_rng(1).normal(size=(3, *SHAPE)).astype(np.float32)
    t = np.array([0, 30, 900], np.int32)
    return net, jax.jit(network.make_score_fn(net)), randomised(net), xt, t


def size_by_hand(hidden, depth, patch, channels, out, classes=0, ratio=4):
    """Parameters of Peebles and Xie's network, layer by layer."""

    def dense(inputs, outputs):
        return (inputs + 1) * outputs

    attention = dense(hidden, 3 * hidden) + dense(hidden, hidden)
    perceptron = dense(hidden, ratio * hidden) + dense(ratio * hidden, hidden)
    block = attention + perceptron + dense(hidden, 6 * hidden)
    embedders = dense(patch**2 * channels, hidden) + dense(256, hidden) + dense(hidden, hidden)
    final = dense(hidden, 2 * hidden) + dense(hidden, patch**2 * out)
    return depth * block + embedders + classes * hidden + final


def test_dit_xl_2_has_its_published_size():
    """With a learned variance and 1000 classes; theirs counts the position embedding, too."""
    net = dit.DiT(8, 2, 1152, 28, 16, num_class_embeds=1001)
    assert count(net, (32, 32, 4)) == 675_129_632 - 256 * 1152


@pytest.mark.parametrize("classes", [0, 1001])
def test_dit_s_2_is_the_default_and_has_the_size_of_its_layers(classes):
    settings = dit.ARCHITECTURE.settings | {"num_class_embeds": classes}
    expected = size_by_hand(384, 12, 2, 4, 4, classes)
    assert count(dit.from_settings(settings, 4), (32, 32, 4)) == expected


def test_mlp_ratio_and_patch_size_change_the_size_as_they_must():
    net = dit.DiT(3, 4, 24, 2, 3, mlp_ratio=2.0)
    assert count(net, (8, 8, 3)) == size_by_hand(24, 2, 4, 3, 3, ratio=2)


@pytest.fixture(scope="module")
def fresh():
    """Parameters as they are at initialisation, of a network that is wide enough for statistics."""
    net = dit.DiT(3, 2, 64, 2, 4, num_class_embeds=50)
    return net, network.init_params(net, jax.random.key(0), SHAPE)


def test_output_is_zero_at_initialisation(fresh):
    net, params = fresh
    xt = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    out = jax.jit(network.make_score_fn(net))(params, xt, np.array([3, 70]), np.array([1, 4]))
    np.testing.assert_array_equal(out, np.zeros_like(xt))


def test_a_block_is_the_identity_at_initialisation():
    block, x = dit.Block(2), jax.random.normal(jax.random.key(0), (2, 5, 8))
    out, _ = block.init_with_output(jax.random.key(1), x, 3 * x[:, 0])
    np.testing.assert_array_equal(out, x)


def test_initialisation_is_that_of_the_papers_code(fresh):
    _, params = fresh

    def bound(path, fan_in, fan_out):
        kernel = params
        for key in path.split("/"):
            kernel = kernel[key]
        assert 0.97 < np.abs(kernel).max() / np.sqrt(6 / (fan_in + fan_out)) <= 1, path

    for name in ("to_q", "to_k", "to_v"):  # one matrix there
        bound(f"transformer_blocks_0/attn1/{name}/kernel", 64, 3 * 64)
    bound("transformer_blocks_1/attn1/to_out/kernel", 64, 64)
    bound("transformer_blocks_0/ff_net_0_proj/kernel", 64, 256)
    bound("transformer_blocks_0/ff_net_2/kernel", 256, 64)
    bound("pos_embed/proj/kernel", 2 * 2 * 3, 64)
    for part, leaf in (
        *((params["time_embedding"][f"linear_{i}"], "kernel") for i in (1, 2)),
        (params["class_embedding"], "embedding"),
    ):
        assert np.std(part[leaf]) == pytest.approx(0.02, rel=0.05)
    zero = [params[f"transformer_blocks_{i}"]["norm1"]["linear"] for i in range(2)]
    zero += [params["proj_out_1"], params["proj_out_2"]]
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(zero))
    biases = jax.tree_util.tree_leaves_with_path(params)
    assert not any(np.any(b) for path, b in biases if path[-1].key == "bias")


def test_unpatchify_puts_every_pixel_in_its_place():
    """An image of 4 x 6 pixels and 2 channels, each number of which says where it belongs."""
    row, column, channel = np.mgrid[:4, :6, :2]
    image = 100 * row + 10 * column + channel
    tokens = [
        [image[2 * i + y, 2 * j + x, c] for y in range(2) for x in range(2) for c in range(2)]
        for i in range(2)
        for j in range(3)
    ]
    assert tokens[1] == [20, 21, 30, 31, 120, 121, 130, 131]  # second patch of the first row
    out = dit.unpatchify(np.array([tokens, tokens]), 2, 3, 2)
    np.testing.assert_array_equal(out, [image, image])


def test_patches_are_embedded_in_the_order_in_which_they_are_put_back():
    """With the identity for a map, each token is its patch, and unpatchify gives the image."""
    embed, channels, patch = dit.PatchEmbed(2, 8), 2, 2
    image = np.random.default_rng(0).normal(size=(2, 4, 6, channels)).astype(np.float32)
    identity = np.eye(8, dtype=np.float32).reshape(patch, patch, channels, 8)
    params = {"proj": {"kernel": identity, "bias": np.zeros(8, np.float32)}}
    tokens = embed.apply({"params": params}, image) - dit.position_embedding(2, 3, 8)
    np.testing.assert_allclose(dit.unpatchify(tokens, 2, 3, patch), image, atol=1e-6)


def test_position_embedding_by_hand():
    found = dit.position_embedding(2, 3, 8)
    expected = [
        [
            np.sin(column), np.sin(column / 100), np.cos(column), np.cos(column / 100),
            np.sin(row), np.sin(row / 100), np.cos(row), np.cos(row / 100),
        ]
        for row in range(2)
        for column in range(3)
    ]  # fmt: skip
    np.testing.assert_allclose(found, expected, atol=1e-7)
    with pytest.raises(ValueError, match="of size 6: the size must be a multiple of 4"):
        dit.position_embedding(2, 2, 6)


def test_images_that_patches_do_not_cover_are_refused():
    with pytest.raises(ValueError, match="9 x 8 pixels: both sides must be divisible"):
        param_shapes(dit.DiT(**TINY), (9, 8, 3))


def test_all_attention_goes_through_attend(monkeypatch):
    seen = []

    def attend(query, key, value, implementation):
        seen.append((query.shape, implementation))
        return value

    monkeypatch.setattr(layers, "attend", attend)
    param_shapes(dit.DiT(**TINY, attention="cudnn"))
    assert seen == [((1, 24, 2, 8), "cudnn")] * 3


def test_the_label_changes_the_prediction_and_without_classes_it_is_refused(tiny):
    net, _, params, xt, t = tiny
    with pytest.raises(ValueError, match="knows no condition"):
        net.apply({"params": params}, xt, t, np.array([0, 1, 2]))
    net = dit.DiT(**TINY, num_class_embeds=4)
    params = randomised(net)
    score_fn = jax.jit(network.make_score_fn(net))
    out = score_fn(params, xt, t, np.array([0, 1, 2]))
    other = score_fn(params, xt, t, np.array([0, 3, 2]))
    np.testing.assert_array_equal(out[::2], other[::2])
    assert np.abs(out[1] - other[1]).max() > 1e-2
    with pytest.raises(ValueError, match="needs the classes"):
        net.apply({"params": params}, xt, t)


def test_the_label_is_added_to_the_time(tiny):
    """A row of zeros is the network without classes."""
    _, score_fn, params, xt, t = tiny
    net = dit.DiT(**TINY, num_class_embeds=2)
    table = np.stack([np.zeros(16), np.ones(16)]).astype(np.float32)
    classes = params | {"class_embedding": {"embedding": table}}
    out = jax.jit(network.make_score_fn(net))(classes, xt, t, np.array([0, 0, 1]))
    plain = score_fn(params, xt, t)
    np.testing.assert_allclose(out[:2], plain[:2], rtol=1e-5, atol=1e-6)
    assert np.abs(out[2] - plain[2]).max() > 1e-2


@pytest.mark.parametrize("part", ["attention", "perceptron"])
def test_dropout_acts_on_attention_and_on_perceptron(part):
    """With the other one's gate closed."""
    block, rng = dit.Block(2, dropout=0.5), np.random.default_rng(0)
    x, conditioning = rng.normal(size=(1, 5, 8)), np.ones((1, 8))
    shapes = jax.eval_shape(block.init, jax.random.key(0), x, conditioning)["params"]
    params = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), shapes)
    gates = {"attention": (1, 0), "perceptron": (0, 1)}[part]
    vectors = np.repeat(np.array([0, 0, gates[0], 0, 0, gates[1]], np.float32), 8)
    params["norm1"]["linear"] = {"kernel": np.zeros((8, 48), np.float32), "bias": vectors}

    def added(deterministic):
        rngs = {"dropout": jax.random.key(2)}
        return block.apply({"params": params}, x, conditioning, deterministic, rngs=rngs) - x

    plain, dropped = added(True), added(False)
    gone = dropped == 0
    assert 0.2 < gone.mean() < 0.8
    np.testing.assert_allclose(dropped[~gone], 2 * plain[~gone], rtol=1e-4, atol=1e-5)


def test_remat_computes_again_and_changes_nothing(tiny):
    *_, xt, t = tiny
    net = dit.DiT(**TINY | {"depth": 1}, dropout=0.5)
    again, params = net.clone(remat=True), randomised(net)
    assert jax.tree.map(np.shape, param_shapes(again)) == jax.tree.map(np.shape, params)
    keys = jax.random.split(jax.random.key(1), len(xt))

    @functools.partial(jax.jit, static_argnums=0)
    def run(net, params):
        def scalar(p):
            out = network.make_score_fn(net)(p, xt, t, dropout_key=keys)
            return jnp.square(out).sum(), out

        return jax.grad(scalar, has_aux=True)(params)

    (gradient, out), (expected, exact) = run(again, params), run(net, params)
    np.testing.assert_allclose(out, exact, rtol=1e-4, atol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), gradient, expected
    )
    programs = (str(jax.make_jaxpr(run, 0)(n, params)) for n in (again, net))
    assert ["remat" in program for program in programs] == [True, False]


def test_bfloat16_computes_in_bfloat16_with_float32_parameters_and_output(tiny):
    _, score_fn, params, xt, t = tiny
    net = dit.DiT(**TINY, dtype=jnp.bfloat16)

    @jax.jit
    def run(params):
        return net.apply({"params": params}, xt, t, mutable=["intermediates"])

    out, state = run(params)
    assert {m.dtype for m in state["intermediates"]["features"]} == {jnp.dtype(jnp.bfloat16)}
    assert out.dtype == jnp.float32
    exact = score_fn(params, xt, t)
    assert 1e-5 < np.sqrt(np.mean((out - exact) ** 2) / np.mean(np.square(exact))) < 0.05
    for stored in ("float32", "bfloat16"):
        shapes = param_shapes(dit.DiT(**TINY, dtype=jnp.bfloat16, param_dtype=jnp.dtype(stored)))
        assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(stored)}


def test_statistics_of_a_layer_norm_are_float32():
    """Of values far from 0, whose variance bfloat16 could not hold."""
    x = (100 + np.random.default_rng(0).normal(size=(4, 64))).astype(jnp.bfloat16)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
    out = dit.layer_norm(jnp.bfloat16).apply({}, x)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(np.float32), exact, rtol=2**-7, atol=1e-2)


@pytest.mark.parametrize(("depth", "after"), [(1, (0,)), (2, (0, 1)), (3, (1, 2)), (4, (1, 3))])
def test_features_are_the_mean_tokens_after_half_of_the_blocks_and_after_all(tiny, depth, after):
    *_, xt, t = tiny
    net = dit.DiT(**TINY | {"depth": depth})
    params = randomised(net)
    features = jax.jit(network.make_feature_fn(net))(params, xt, t)
    _, state = jax.jit(lambda p: net.apply({"params": p}, xt, t, capture_intermediates=True))(
        params
    )
    kept = state["intermediates"]
    tokens = [kept[f"transformer_blocks_{i}"]["__call__"][0] for i in after]
    assert tokens[0].shape == (3, 24, 16)
    expected = np.concatenate([m.mean(1) for m in tokens], -1)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_settings_as_a_config_file_writes_them_give_the_network():
    settings = dit.ARCHITECTURE.settings | {"dtype": "bfloat16", "depth": 3}
    net = dit.from_settings(settings | {"remat": True, "attention": "cudnn"}, 3)
    expected = dit.DiT(3, depth=3, dtype=jnp.dtype(jnp.bfloat16), remat=True, attention="cudnn")
    assert net == expected and hash(net) == hash(net.clone())


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"patch_size": 3}, "patch_size = 3: must divide the image size, 8"),
        ({"patch_size": 16}, "patch_size = 16: must divide the image size, 8"),
        ({"patch_size": 0}, "patch_size = 0: must be > 0"),
        ({"hidden_size": 90}, "hidden_size = 90: must be a positive multiple of 4"),
        ({"num_heads": 5}, "num_heads = 5: must divide model.hidden_size = 384"),
        ({"num_heads": 0}, "num_heads = 0: must be > 0"),
        ({"depth": 0}, "depth = 0: must lie in 1..1000"),
        ({"mlp_ratio": 0.0}, "mlp_ratio = 0.0: must be > 0"),
        ({"mlp_ratio": 0.001}, "mlp_ratio = 0.001: must be at least 1 / model.hidden_size"),
    ],
)
def test_settings_that_cannot_work_are_one_line(changes, line):
    config = vdu_config.default()  # of 8x8 images
    config.model = vdu_config.model("dit", **changes)
    with pytest.raises(UserError, match=f"config key model.{line}"):
        vdu_config.validate(config)
