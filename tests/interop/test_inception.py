"""FID's weights: names, shapes, and what is refused."""

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from vdu_jax.errors import UserError
from vdu_jax.interop import inception
from vdu_jax.models import inception as network


@pytest.fixture(scope="module")
def named():
    """Tensors by PyTorch's names; not to be changed."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda s: rng.standard_normal(s.shape, np.float32), network.param_shapes()
    )
    return inception.tensors_from_params(params)


@pytest.fixture(scope="module")
def path(named, tmp_path_factory):
    """A file as `vdu convert` makes it of the published weights."""
    path = tmp_path_factory.mktemp("weights") / "inception.safetensors"
    rest = {
        "fc.weight": np.zeros((1008, 2048), np.float32),
        "fc.bias": np.full(1008, np.nan, np.float32),
        "Mixed_5b.branch1x1.bn.num_batches_tracked": np.array(7),
    }
    save_file({k: np.ascontiguousarray(v) for k, v in named.items()} | rest, path)
    return path


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("Conv2d_1a_3x3.conv.weight", (32, 3, 3, 3)),
        ("Mixed_6b.branch7x7_2.conv.weight", (128, 128, 1, 7)),
        ("Mixed_7b.branch3x3dbl_3b.conv.weight", (384, 384, 3, 1)),
        ("Mixed_5b.branch1x1.bn.weight", (64,)),
        ("Mixed_5b.branch1x1.bn.bias", (64,)),
        ("Mixed_5b.branch1x1.bn.running_mean", (64,)),
        ("Mixed_7c.branch_pool.bn.running_var", (192,)),
    ],
)
def test_names_and_shapes_are_pytorchs(named, name, shape):
    assert named[name].shape == shape


def test_there_and_back_bit_by_bit(named):
    back = inception.tensors_from_params(inception.params_from_tensors(named))
    assert back.keys() == named.keys() and len(back) == 94 * 5
    for name, value in named.items():
        np.testing.assert_array_equal(back[name], value)


def test_a_kernel_is_turned_and_statistics_keep_their_meaning(named):
    params = inception.params_from_tensors(named)["Mixed_6b"]["branch7x7_2"]
    theirs = named["Mixed_6b.branch7x7_2.conv.weight"]
    assert params["conv"]["kernel"][0, 5, 3, 2] == theirs[2, 3, 0, 5]
    for ours, name in (
        ("scale", "weight"), ("bias", "bias"), ("mean", "running_mean"), ("var", "running_var")
    ):  # fmt: skip
        np.testing.assert_array_equal(params["bn"][ours], named[f"Mixed_6b.branch7x7_2.bn.{name}"])


def test_a_file_with_the_last_layer_and_counters_is_loaded_without_them(named, path):
    params = inception.load(path)
    jax.tree.map(np.testing.assert_array_equal, params, inception.params_from_tensors(named))
    assert jax.tree.structure(params) == jax.tree.structure(network.param_shapes())


def test_half_precision_becomes_float32(named):
    halves = {k: v.astype(ml_dtypes.bfloat16) for k, v in named.items()}
    leaf = inception.params_from_tensors(halves)["Conv2d_1a_3x3"]["bn"]["mean"]
    assert leaf.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("Mixed_6c.branch1x1.bn.bias", None, "lacks tensor Mixed_6c.branch1x1.bn.bias"),
        ("AuxLogits.conv0.conv.weight", np.zeros(3), "unexpected tensor AuxLogits.conv0.conv"),
        ("Mixed_5b.branch1x1.bn.bias", np.zeros(63), "Mixed_5b.branch1x1.bn.bias has shape (63,)"),
        (
            "Mixed_6b.branch7x7_2.conv.weight",
            np.zeros((128, 128, 7, 1)),
            "branch7x7_2.conv.weight has shape (128, 128, 7, 1), not (128, 128, 1, 7)",
        ),
    ],
)
def test_what_does_not_fit_is_named(named, name, value, said):
    changed = {k: v for k, v in (named | {name: value}).items() if v is not None}
    with pytest.raises(UserError) as caught:
        inception.params_from_tensors(changed, "x.safetensors")
    assert said in str(caught.value) and str(caught.value).startswith("x.safetensors")


def test_no_file_says_where_the_weights_are(tmp_path):
    for path, said in (("", "needs the weights"), (tmp_path / "no.safetensors", "no such file")):
        with pytest.raises(UserError) as caught:
            inception.load(path)
        message = str(caught.value)
        for part in (
            said,
            "evaluate.inception_weights",
            inception.URL,
            "vdu convert",
            "classifier",
        ):
            assert part in message


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_a_pickle_is_refused_unopened(tmp_path, suffix):
    path = tmp_path / f"inception{suffix}"
    path.write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(UserError, match=r"`vdu convert .*inception\.safetensors"):
        inception.load(path)


def test_a_damaged_file_is_refused(path, tmp_path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"cut\.safetensors is damaged"):
        inception.load(cut)
    cut.write_text("hello")
    with pytest.raises(UserError, match="damaged or no safetensors file"):
        inception.load(cut)
