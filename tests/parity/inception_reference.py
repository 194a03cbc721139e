"""pytorch-fid's network with random weights in place of its trained ones."""

from unittest import mock

import jax
import numpy as np

from vdu_jax.interop.inception import tensors_from_params
from vdu_jax.models import inception


def random_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights that keep activations of the order of 1, by PyTorch's names.

    They are drawn in the order of the names, so names and shapes alone make them again.
    """
    zeros = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), inception.param_shapes())
    shapes = {name: value.shape for name, value in tensors_from_params(zeros).items()}
    rng = np.random.RandomState(seed)
    tensors = {}
    for name, shape in sorted(shapes.items()):
        if name.endswith("conv.weight"):
            value = rng.randn(*shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith(("bn.weight", "bn.running_var")):
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = 0.1 * rng.randn(*shape)
        tensors[name] = value.astype(np.float32)
    return tensors


def make_network():
    """`pytorch_fid.inception.InceptionV3` for the 2048 features, with arbitrary weights."""
    from pytorch_fid import inception as theirs
    from torchvision.models import inception_v3

    weights = inception_v3(
        num_classes=1008, aux_logits=False, weights=None, init_weights=False
    ).state_dict()
    with mock.patch.object(theirs, "load_state_dict_from_url", lambda *a, **k: weights):
        return theirs.InceptionV3([3]).eval()


def stage_names() -> dict[str, str]:
    """Prefix in `make_network()` -> that in the weights' file: "blocks.0.0" -> "Conv2d_1a_3x3"."""
    parts = (
        ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"),
        ("Conv2d_3b_1x1", "Conv2d_4a_3x3"),
        tuple(f"Mixed_{n}" for n in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e")),
        ("Mixed_7a", "Mixed_7b", "Mixed_7c"),
    )
    return {f"blocks.{i}.{j}": name for i, part in enumerate(parts) for j, name in enumerate(part)}


def features(tensors: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """pytorch-fid's features (N, 2048) of images (N, 3, H, W) in [0, 1]."""
    import torch

    network, state = make_network(), {}
    names = stage_names()
    for key, old in network.state_dict().items():
        prefix = ".".join(key.split(".")[:3])
        name = key.replace(prefix, names[prefix], 1)
        state[key] = old if name.endswith("num_batches_tracked") else torch.tensor(tensors[name])
    network.load_state_dict(state)
    with torch.no_grad():
        return network(torch.from_numpy(images))[0][:, :, 0, 0].numpy()
