"""A text-to-image run of a few steps, on random images in true formats."""

import archives
import pytest

from vdu_jax import cli

TINY = """
from vdu_jax import config as vdu_config

def get_config():
    config = vdu_config.default("stable_diffusion")
    config.data.dir = {data_dir!r}
    config.data.manual_dir = {manual_dir!r}
    config.data.synonyms = {{"red": "crimson"}}
    config.forget.prompts = ("a red bag", "a red shirt")
    config.replay.prompts = ("a blue bag", "a white dress", "a green coat")
    config.evaluate.paraphrases = ("a crimson bag",)
    config.evaluate.other_prompts = ("a blue bag", "a white shirt")
    # Noise of a network of six steps is of this "red".
    config.detector.palette = {{"red": (112, 97, 126), "blue": (0, 0, 255), "white": (0, 255, 0)}}
    config.model.unet.sample_size = 16
    config.model.unet.block_out_channels = (8,)
    config.model.unet.down_block_types = ("DownBlock2D",)  # the attention in the middle remains
    config.model.unet.up_block_types = ("UpBlock2D",)
    config.model.unet.attention_head_dim = 2
    config.model.unet.cross_attention_dim = 8
    config.model.unet.norm_num_groups = 4
    config.model.vae.block_out_channels = (4, 4)
    config.model.vae.down_block_types = ("DownEncoderBlock2D",) * 2
    config.model.vae.up_block_types = ("UpDecoderBlock2D",) * 2
    config.model.vae.mid_block_add_attention = False
    config.model.vae.norm_num_groups = 2
    config.model.text_encoder.hidden_size = 8
    config.model.text_encoder.intermediate_size = 8
    config.model.text_encoder.num_attention_heads = 2
    config.model.text_encoder.num_hidden_layers = 1
    config.train.autoencoder.steps = 3
    config.train.autoencoder.batch_size = 8
    config.train.steps = 6
    config.train.batch_size = 8
    config.train.warmup_steps = 1
    config.train.snapshot_every = 2
    config.train.snapshots = 3
    config.train.save_state_every = 3
    config.train.log_every = 2
    config.sampler.steps = 2
    config.sampler.batch_size = 4
    config.replay.images = 3
    config.curve.images = 2
    config.evaluate.images = 4
    config.relearn.images = 30
    config.relearn.checks = (1, 2)
    config.classifier.widths = (8,)
    config.classifier.epochs = 1
    config.classifier.min_accuracy = 0.0
    steps = dict(steps=2, snapshot_every=1, forget_batch=4, replay_batch=4, log_every=1)
    esd = dict(teacher="condition", **steps)
    config.methods.esd_x = vdu_config.method("esd", "cross_attention", **esd)
    config.methods.vdu = vdu_config.method("vdu", "attn2/to_v", 1, learning_rate=1e-3, **steps)
    return config
"""


@pytest.fixture(scope="session")
def text_config_file(tmp_path_factory):
    root = tmp_path_factory.mktemp("text")
    archives.write_idx_set(root / "manual", n_train=120, n_test=40)
    path = root / "tiny_text.py"
    path.write_text(TINY.format(data_dir=str(root / "data"), manual_dir=str(root / "manual")))
    return path


@pytest.fixture
def text_settings(text_config_file):
    """That config, free to change."""
    values, _ = cli.parse([f"--config={text_config_file}", "--workdir=unused"])
    return values["config"].value


@pytest.fixture(scope="session")
def text_run(text_config_file, tmp_path_factory):
    """A workdir in which every stage has run, through the command line. Not to be changed."""
    workdir = tmp_path_factory.mktemp("text_run") / "work"
    assert cli.main(["run", f"--config={text_config_file}", f"--workdir={workdir}"]) == 0
    return workdir
