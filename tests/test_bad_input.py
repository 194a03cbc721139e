"""Whatever a user gives: exit code 2 and one line, or what is given is accepted; no traceback.

Of folders of images and captions, every file is read, or stands in what is said of it.
"""

import contextlib
import io
import json
import re
import shutil
import string
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
import text_to_image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from vdu_jax import cli, data, tasks
from vdu_jax import config as vdu_config
from vdu_jax.data import captions, folders
from vdu_jax.errors import UserError
from vdu_jax.interop import folder, pipeline, scheduler, unet2d
from vdu_jax.parity import check
from vdu_jax.stages import benchmark, importing, plan
from vdu_jax.tasks import base

QUIET = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,  # the same inputs in every run
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.sampled_from([1e-300, 1e300, 0.5, 2**31, 2**63]),
)
WORDS = st.one_of(
    st.text(string.printable, max_size=12),
    st.sampled_from(
        ["", "None", "True", "adam", "nan", "-inf", "(", "[]", "{}", "'", "../..", "é"]
    ),
)
ANYTHING = st.recursive(
    st.one_of(NUMBERS, WORDS, st.none(), st.booleans(), st.binary(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from(["a", "steps", "name"]), inner, max_size=2),
    ),
    max_leaves=4,
)


def keys(section, prefix=""):
    """Every key of a config, sections as well as their leaves."""
    for name, value in section.items():
        yield f"{prefix}{name}"
        if hasattr(value, "items"):
            yield from keys(value, f"{prefix}{name}.")


COMPARISON = """
from tiny import get_config as base

def get_config():
    config = base()
    config.forget.classes = (3,)
    config.benchmark.classes = (8,)
    config.benchmark.seeds = (0, 4)
    config.benchmark.tuning_class = 5
    config.benchmark.method_seeds = {"plain": (0,)}
    config.benchmark.grids = {"plain": ({"learning_rate": 1e-4}, {"gamma": 0.2})}
    config.benchmark.changes = {"plain": {"posterior": {"count": 2}}}
    return config
"""


@pytest.fixture(scope="module")
def comparison(config_file):
    path = config_file.with_name("comparison.py")
    path.write_text(COMPARISON)
    return path


@pytest.fixture(scope="module")
def names(comparison):
    values, _ = cli.parse([f"--config={comparison}"], "plan")
    return sorted(keys(values["config"].value))


@pytest.fixture
def run(monkeypatch):
    """`run(*argv)`: the exit code; what is accepted is not computed."""
    # Byte code is taken for that of a file of equal size and second.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(cli, "run_stages", lambda *args: None)
    for tool in (benchmark, plan, check):
        monkeypatch.setattr(tool, "run", lambda *args: 0)
    monkeypatch.setattr(benchmark, "run_only", lambda *args: 0)

    def call(*argv):
        err = io.StringIO()
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            code = cli.main([*argv])
        lines = err.getvalue().splitlines()
        assert code in (0, 2), argv
        if code == 2:
            assert len(lines) == 1 and lines[0].startswith("vdu: error: "), (argv, lines)
            assert not re.search(r" at 0x|!!python|ConfigDict\(", lines[0]), lines[0]
        return code

    return call


def test_the_start_of_all_is_good(run, comparison):
    assert run("benchmark", f"--config={comparison}", "--workdir=unused") == 0


@QUIET
@given(st.data())
def test_overrides(run, names, comparison, data):
    some = st.one_of(st.sampled_from(names), WORDS)
    flags = [
        f"--config.{data.draw(some)}={data.draw(st.one_of(ANYTHING.map(str), WORDS))}"
        for _ in range(data.draw(st.integers(1, 2)))
    ]
    run("benchmark", f"--config={comparison}", "--workdir=unused", *flags)


@QUIET
@given(st.data())
def test_values_that_a_config_file_sets(run, names, comparison, data):
    key, value = data.draw(st.sampled_from(names)), data.draw(ANYTHING)
    path = comparison.with_name("changed.py")
    path.write_text(
        "from comparison import get_config as base\n"
        "nan, inf = float('nan'), float('inf')\n\n"
        "def get_config():\n"
        "    config = base()\n"
        "    with config.ignore_type():\n"
        f"        config.update_from_flattened_dict({{{key!r}: {value!r}}})\n"
        "    return config\n"
    )
    run("benchmark", f"--config={path}", "--workdir=unused")


FILES = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            "", "get_config = 3", "def get_config(): return 3", "def get_config(): return None",
            "def get_config(): raise ValueError('no\\nway')", "def get_config(: pass",
            "import nothing_of_that_name", "raise SystemExit(3)", "1 / 0",
            "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict()",
            "from ml_collections import ConfigDict\n"
            "def get_config(): return ConfigDict({'train': 3, 'data': {'name': 'digits'}})",
        ]
    ),
)  # fmt: skip


@QUIET
@given(FILES)
def test_config_files(run, config_file, text):
    path = config_file.with_name("wrong.py")
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert run("train", f"--config={path}", "--workdir=unused") == 2


ARGUMENTS = st.one_of(
    WORDS,
    st.sampled_from(
        ["run", "train", "plan", "benchmark", "import", "export", "convert", "check", "--config",
         "--workdir", "--workdir=", "--overwrite", "--overwrite=7", "--processes=2", "--process=x",
         "--coordinator=", "--only=a/b", "--onto=x", "--against=x", "--devices=-1", "--memory=x",
         "--model=", "--weights=both", "--precision=", "--json=1", "--config=", "--config.x=1"]
    ),
)  # fmt: skip


@QUIET
@given(st.lists(ARGUMENTS, min_size=1, max_size=5), st.booleans())
def test_command_lines(run, config_file, arguments, with_config):
    given = [f"--config={config_file}", "--workdir=unused"] if with_config else []
    if arguments[0] not in ("-h", "--help", "help", "--version"):
        run(*arguments[:1], *given, *arguments[1:])
    assert not Path("unused").exists()


# --- folders of images and captions ---


def _encoded(mode="RGB", kind="PNG", **options):
    out = io.BytesIO()
    colours = {"RGBA": (255, 0, 0, 0), "RGB": (9, 99, 200), "CMYK": (1, 2, 3, 4), "L": 7}
    Image.new(mode, (9, 6), colours.get(mode, 700)).save(out, kind, **options)
    return out.getvalue()


GOOD = [_encoded(), _encoded("L"), _encoded(kind="JPEG"), _encoded(kind="WEBP"), _encoded("RGBA")]
CONTENTS = st.one_of(
    st.sampled_from(GOOD),
    st.sampled_from(GOOD),
    st.sampled_from(
        [
            _encoded("RGBA"), _encoded("L", transparency=7), _encoded("I;16"),
            _encoded("CMYK", "JPEG"), _encoded()[:50], _encoded(kind="JPEG")[:-40], b"", b"GIF89a",
            _encoded(kind="GIF", save_all=True, append_images=[Image.new("RGB", (9, 6))]),
            None,  # a link to nothing
        ]
    ),
    st.binary(max_size=40),
)  # fmt: skip
FILE_NAMES = st.builds(
    lambda stem, suffix: stem + suffix,
    st.sampled_from(["0", "1", "2", "3", "._4", "é", "e\u0301", " 5", "6 ", "Thumbs", "\u20287"]),
    st.sampled_from([".png", ".png", ".PNG", ".jpg", ".jfif", ".gif", ".heic", ".txt", ".db", ""]),
)
CLASSES = st.sampled_from(
    ["a", "b"] * 6 + ["b ", "_c", ".d", "é", "e\u0301", "a/inner", "b/inner/more"]
)
SPLITS = st.sampled_from(["train"] * 20 + ["test"] * 4 + ["val", "val", "Train", "other", "."])
FOLDERS = st.dictionaries(
    st.one_of(
        st.tuples(SPLITS, CLASSES, FILE_NAMES).map("/".join),
        st.tuples(SPLITS, CLASSES, FILE_NAMES).map("/".join),
        st.tuples(SPLITS, FILE_NAMES).map("/".join),
    ),
    CONTENTS,
    min_size=1,
    max_size=16,
)
SOUND_FOLDERS = st.dictionaries(
    st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 9)).map(
        lambda place: f"train/{place[0]}/{place[1]}.png"
    ),
    st.sampled_from(GOOD),
    min_size=6,
)
FEW = settings(QUIET, max_examples=60)


@contextlib.contextmanager
def folder_of(files):
    """A folder with {name: bytes, or None for a link to nothing}; those that can be together."""
    root = Path(tempfile.mkdtemp(prefix="vdu-bad-input-"))
    try:
        for name, content in files.items():
            path = root / "given" / name
            with contextlib.suppress(OSError):  # a file where another has a folder
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to("nothing") if content is None else path.write_bytes(content)
        (root / "given").mkdir(exist_ok=True)
        yield root / "given"
    finally:
        shutil.rmtree(root)


def one_line(call):
    """What a call returns; None where it raises, in one line, what the user can mend."""
    try:
        return call()
    except UserError as error:
        assert str(error) and "\n" not in str(error)
        return None


def below(paths):
    """The files at and below some paths."""
    for path in paths:
        inner = path.rglob("*") if path.is_dir() else [path]
        yield from (p for p in inner if not p.is_dir())


def accounted(given, read, left_out):
    """Each file is read or left out, and once."""
    rest = list(below(path for paths in left_out.files.values() for path in paths))
    assert sorted([*read, *rest]) == sorted(p for p in given.rglob("*") if not p.is_dir())
    assert not set(read) & set(rest)


@QUIET
@given(st.one_of(FOLDERS, st.builds(lambda a, b: a | b, SOUND_FOLDERS, FOLDERS)))
def test_every_file_of_an_image_folder_is_read_or_accounted_for(files):
    with folder_of(files) as given:
        found = one_line(lambda: folders.list_folder(given))
        if found is None:
            return
        read = [file for pairs in found.splits.values() for file, _ in pairs]
        assert all(len(set(file for file, _ in pairs)) for pairs in found.splits.values())
        accounted(given, read, found.left_out)
        said = str(found.left_out)
        assert all(f": {len(paths)}, e.g. " in said for paths in found.left_out.files.values())


@FEW
@given(
    st.builds(lambda a, b: a | b, SOUND_FOLDERS, FOLDERS),
    st.sampled_from(["", "white", "black"]),
    st.sampled_from([1, 3]),
)
def test_image_folders_are_prepared_or_refused(files, background, channels):
    with folder_of(files) as given, contextlib.redirect_stderr(io.StringIO()):
        where = given.parent / "data"
        settings = {"image_size": 4, "channels": channels, "background": background}
        found = one_line(lambda: data.load("image_folder", where, given, **settings))
        if found is None:
            assert not [p for p in where.rglob("*.array_record*") if p.is_file()]
            return
        listed = folders.list_folder(given)
        read = sum(len(pairs) for pairs in listed.splits.values())
        images = [data.open_split(found, split).read()[0] for split in ("train", "test")]
        assert sum(map(len, images)) == read and "\n" not in found.account
        red = (255, 0, 0) if channels == 3 else 76
        assert not any((x[:, 2, 2] == red).all(-1).any() for x in images)  # it was hidden


NAMES_IN_LINES = st.one_of(
    FILE_NAMES, FILE_NAMES.map("./{}".format), st.just("sub\\0.png"), st.text(max_size=5), st.none()
)
TEXTS = st.one_of(st.text(max_size=12), st.sampled_from(["red", 'a "b", c', "\u2028", "\ud800", 7]))
LINES = st.builds(
    lambda columns, values: dict(zip(columns, values, strict=False)),
    st.sampled_from([("file_name", "text")] * 5 + [("file_name", "caption"), ("text",), ()]),
    st.tuples(NAMES_IN_LINES, TEXTS),
)


def _csv(rows):
    lines = [",".join(map(str, rows[0]))] if rows else []
    return "\n".join(
        [
            *lines,
            *(
                ",".join('"' + str(v).replace('"', '""') + '"' for v in row.values())
                for row in rows
            ),
        ]
    )


def _jsonl(rows):
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


@st.composite
def caption_folders(draw):
    files = draw(
        st.dictionaries(
            st.one_of(FILE_NAMES, FILE_NAMES.map("sub/{}".format)), CONTENTS, max_size=8
        )
    )
    often = st.integers(0, 9).map(bool)
    files |= {"0.png": GOOD[0], "sub/1.jpg": GOOD[2]} if draw(often) else {}
    rows = [
        {"file_name": name, "text": draw(st.sampled_from(["red", 'a "b", c', "x \u2028 y"]))}
        for name, content in files.items()
        if content is not None and draw(st.booleans())
    ]
    rows += [] if draw(often) else draw(st.lists(LINES, max_size=2))
    kind, write = draw(st.sampled_from([("jsonl", _jsonl), ("csv", _csv)]))
    encoding = draw(st.sampled_from(["utf-8"] * 4 + ["utf-8-sig", "utf-16", "latin-1"]))
    text = write(rows) if draw(often) else draw(st.text(max_size=30))
    ending = b"" if draw(often) else draw(st.sampled_from([b"\xff", b"\0", b"{", b'"']))
    return files | {f"metadata.{kind}": text.encode(encoding, "replace") + ending}


@QUIET
@given(caption_folders(), st.sampled_from(["", "white"]), st.sampled_from(["text", "caption"]))
def test_every_file_of_a_caption_folder_is_read_or_accounted_for(files, background, column):
    with folder_of(files) as given:
        listed = one_line(lambda: captions.list_folder(given, column))
        if listed is None:
            return
        accounted(given, [*listed.captions, listed.metadata], listed.left_out)
        found = captions.of_folder(given, 4, 3, column, background)
        assert len(found) == len(listed.captions) >= 1 and "\n" not in found.account
        assert all(isinstance(text, str) and text.strip() for text in found.captions)
        one_line(lambda: list(captions.check_images(found)))


# Model folders, as diffusers writes them, with one to three things changed.

JSON_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**16, 10**30, 0.5, 1.0, 1e30, float("nan"), float("inf"), "", "x", [], {}]),
    st.sampled_from([[1], [1, 2], [None], ["x"], [["x"]], {"a": 1}, [8, 16], [2**31, 2**33]]),
    st.sampled_from(["epsilon", "sample", "v_prediction", "linear", "squaredcos_cap_v2"]),
    st.sampled_from(
        ["UNet2DModel", "UNet2DConditionModel", "DDPMPipeline", "LDMPipeline", "FluxPipeline",
         "StableDiffusionPipeline", "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"]
    ),
    st.sampled_from([["diffusers", "AutoencoderKL"], ["diffusers", "DDIMScheduler"], [None, None]]),
)  # fmt: skip
MORE_KEYS = st.sampled_from(
    ["surprise", "_private", "vae", "vqvae", "transformer", "architectures", "model_type",
     "predict_epsilon", "timestep_values", "tensor_format", "timesteps", "thresholding",
     "use_karras_sigmas", "num_class_embeds", "decay", "scaling_factor", "shift_factor"]
)  # fmt: skip
MODEL_CONTENTS = st.sampled_from(
    [b"", b"{", b"[]", b"{}", b"null", b"<html>", b"version https://git-lfs", b"\xff\xfe\x00",
     b"\x80\x02", b"PK\x03\x04", b"[" * 99999, bytes(99), b'{"weight_map": {"a": "b"}}']
)  # fmt: skip
STEM = "diffusion_pytorch_model"
WEIGHTS = ["unet/" + STEM + end for end in (
    ".safetensors", ".fp16.safetensors", ".bin", ".bin.index.json", ".safetensors.index.json",
    "-00001-of-00002.safetensors", "-00001-of-00002.bin", ".safetensors.index.fp16.json",
)]  # fmt: skip
FILES_TO_ADD = st.sampled_from(
    [*WEIGHTS, "vae/x", "vqvae/x", "unet_ema/config.json", "optimizer.bin", "v1-5.ckpt",
     "scheduler_config.json", "noise_scheduler/scheduler_config.json", "config.json"]
)  # fmt: skip


def change_json(data, directory):
    """One key of one of the JSON files: (file, key, value)."""
    files = sorted(p for p in directory.rglob("*.json") if p.is_file())
    path = data.draw(st.sampled_from(files))
    try:
        value = json.loads(path.read_text())
        keys = sorted(value)
    except (ValueError, TypeError, RecursionError):
        return None
    key = data.draw(st.one_of(st.sampled_from([*keys, "x"]), MORE_KEYS))
    if not isinstance(value, dict):
        return None
    if data.draw(st.integers(0, 4)) == 0:
        value.pop(key, None)
        new = None
    else:
        new = value[key] = data.draw(JSON_VALUES)
    path.write_text(json.dumps(value))
    return path.relative_to(directory).as_posix(), key, new


def change_file(data, directory):
    """One file, deleted, renamed, cut short, or of other contents; or a new one."""
    files = sorted(p for p in directory.rglob("*") if p.is_file())
    path = data.draw(st.sampled_from(files))
    what = data.draw(st.sampled_from(["delete", "rename", "cut", "replace", "add", "copy"]))
    other = directory / data.draw(FILES_TO_ADD)
    if what == "delete":
        path.unlink()
    elif what == "cut":
        path.write_bytes(path.read_bytes()[: data.draw(st.integers(0, 200))])
    elif what == "replace":
        path.write_bytes(data.draw(MODEL_CONTENTS))
    elif other.parent.is_file() or other == path:
        pass
    else:
        other.parent.mkdir(exist_ok=True)
        if what == "rename":
            path.rename(other)
        else:
            other.write_bytes(path.read_bytes() if what == "copy" else data.draw(MODEL_CONTENTS))


def change_tensors(data, directory):
    """One tensor of one file: gone, renamed, of another shape or kind, not finite, one more."""
    files = sorted(directory.rglob("*.safetensors"))
    if not files:
        return
    path = data.draw(st.sampled_from(files))
    try:
        stored = load_file(path)
    except (SafetensorError, OSError):
        return
    if not stored:
        return
    name = data.draw(st.sampled_from(sorted(stored)))
    tensor = stored.pop(name)
    changed = data.draw(
        st.sampled_from(
            [{}, {"x": tensor}, {name: tensor[:0]}, {name: tensor.astype(np.int8)},
             {name: tensor * np.float32(np.nan)}, {name: tensor.T.copy(), "lora_x": tensor},
             {name: tensor.reshape(1, *tensor.shape)}, {name: tensor.astype(np.float64)}]
        )
    )  # fmt: skip
    save_file(stored | changed, path)


CHANGES = (change_json, change_json, change_file, change_tensors)


def read_or_refused(read, directory):
    """What `read` returns, or `None` where it refuses in one line that names the folder."""
    try:
        return read(directory)
    except UserError as error:
        assert "\n" not in str(error) and str(directory) in str(error), error
        return None


@pytest.fixture(scope="module")
def pixel_model(tmp_path_factory):
    """The folder of an unconditional model, without its checksums."""
    config = vdu_config.default()
    config.model.update(block_out_channels=(8, 16), layers_per_block=1, num_groups=4)
    sections = {s: config[s].to_dict() for s in ("model", "diffusion", "sampler")}
    like = tasks.of(config, image_shape=(8, 8, 1)).abstract_params
    params = jax.tree.map(lambda s: np.ones(s.shape, np.float32), like)
    model = folder.pipeline(sections, (8, 8, 1), unet2d.to_tensors(params), {})
    texts = {name: text for name, text in model.texts.items() if name != folder.ORIGIN}
    path = tmp_path_factory.mktemp("pixels") / "model"
    folder.write(path, model._replace(texts=texts))
    return path


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    return text_to_image.write_folder(tmp_path_factory.mktemp("text") / "model")


@contextlib.contextmanager
def copied(directory):
    with tempfile.TemporaryDirectory() as root:
        yield shutil.copytree(directory, Path(root) / "m")


@settings(QUIET, max_examples=150)
@given(st.data())
def test_model_folders(pixel_model, data):
    with copied(pixel_model) as directory:
        for _ in range(data.draw(st.integers(1, 3))):
            data.draw(st.sampled_from(CHANGES))(data, directory)
        read_or_refused(importing.read, directory)
        read_or_refused(pipeline.read, directory)


@settings(QUIET, max_examples=150)
@given(st.data())
def test_text_to_image_folders(text_model, data):
    with copied(text_model) as directory:
        for _ in range(data.draw(st.integers(1, 3))):
            data.draw(st.sampled_from(CHANGES))(data, directory)
        found = read_or_refused(pipeline.read, directory)
        read_or_refused(folder.read, directory)
        if found is not None:
            base.parameterization_of(found.diffusion)


# Keys that may be given anything without a word: of DDPM's scheduler and an unconditional U-Net
# they say nothing (docs/inputs.md).
INERT = {
    "unet/config.json": {*unet2d.EMA_KEYS, "num_train_timesteps", "_class_name"},
    "scheduler/scheduler_config.json": {
        *scheduler.OTHER_KEYS - {"trained_betas", "predict_epsilon"}, *scheduler.SOLVER,
        "set_alpha_to_one", "algorithm_type", "use_flow_sigmas", "timestep_type", "_class_name",
    },
    "model_index.json": {"_class_name", "unet", "scheduler"},
}  # fmt: skip


@settings(QUIET, max_examples=300)
@given(st.data())
def test_no_key_of_a_model_is_passed_over_unsaid(pixel_model, data):
    """What is accepted and said by nobody changes a setting, or says nothing by docs/inputs.md."""
    usual = folder.read(pixel_model)
    with copied(pixel_model) as directory:
        file, key, value = change_json(data, directory)
        before = json.loads((pixel_model / file).read_text())
        found = read_or_refused(folder.read, directory)
    if found is None or found.notes or key.startswith("_") or key in INERT[file]:
        return
    if value in (None, [None, None]) or value is False or before.get(key) == value:
        return
    assert (found.settings, found.image_shape) != (usual.settings, usual.image_shape), (key, value)
