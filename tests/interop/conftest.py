"""A small diffusers pipeline's folder, written without PyTorch."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vdu_jax import config as vdu_config
from vdu_jax import tasks
from vdu_jax.interop import folder, unet2d

SHAPE = (8, 8, 1)


def random_params(like, seed=0):
    """Values that are all different from each other and from 0."""
    rng = np.random.RandomState(seed)
    return jax.tree.map(lambda s: rng.randn(*s.shape).astype(np.float32), like)


@pytest.fixture
def small_config():
    config = vdu_config.default()
    config.model.block_out_channels = (8, 16)
    config.model.layers_per_block = 1
    config.model.num_groups = 4
    return config


@pytest.fixture
def settings(small_config):
    return {s: small_config[s].to_dict() for s in ("model", "diffusion", "sampler")}


@pytest.fixture
def params(small_config):
    return random_params(tasks.of(small_config, image_shape=SHAPE).abstract_params)


@pytest.fixture
def pipeline_dir(tmp_path, settings, params):
    """The folder of such a pipeline, as diffusers itself would write it."""
    model = folder.pipeline(settings, SHAPE, unet2d.to_tensors(params), {})
    texts = {name: text for name, text in model.texts.items() if name != folder.ORIGIN}
    folder.write(tmp_path / "pipeline", model._replace(texts=texts))
    return tmp_path / "pipeline"


@pytest.fixture
def edit_tensors():
    """`edit(path, change)` rewrites a safetensors file after `change(dict)`."""

    def edit(path, change, metadata=None):
        stored = load_file(path)
        change(stored)
        save_file({k: np.ascontiguousarray(v) for k, v in stored.items()}, path, metadata)

    return edit
