"""Importing and exporting models, and starting from imported ones, through the command line."""

import json
import shutil

import jax
import numpy as np
import pytest

from vdu_jax import cli, tasks
from vdu_jax.errors import UserError
from vdu_jax.interop import folder, unet2d
from vdu_jax.runtime import artifacts
from vdu_jax.stages import exporting, importing, posterior, sample

SHAPE = (8, 8, 1)


def files(directory):
    return {
        p.relative_to(directory).as_posix(): p.read_bytes()
        for p in directory.rglob("*")
        if p.is_file()
    }


def without_checksums(model):
    return model._replace(texts={k: v for k, v in model.texts.items() if k != folder.ORIGIN})


def equal(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b)))


def refused(capsys, *argv):
    """Run a command that must end in one line and exit code 2; returns the line."""
    assert cli.main([str(a) for a in argv]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("vdu:")]
    return line


def export(unet_run, unet_file, directory, *flags):
    common = [f"--config={unet_file}", f"--workdir={unet_run}"]
    assert cli.main(["export", str(directory), *common, *flags]) == 0
    return folder.read(directory)


@pytest.fixture(scope="module")
def exported(unet_run, unet_file, tmp_path_factory):
    """The run's original (moving average and raw) and unlearned model as diffusers folders."""
    root = tmp_path_factory.mktemp("exported")
    for name, flags in {
        "original": [],
        "raw": ["--weights=params"],
        "plain": ["--model=plain"],
    }.items():
        export(unet_run, unet_file, root / name, *flags)
    return root


@pytest.fixture(scope="module")
def imported(exported, tmp_path_factory):
    """Those folders, imported again: one workdir each."""
    root = tmp_path_factory.mktemp("imported")
    for name in ("original", "raw", "plain"):
        assert cli.main(["import", str(exported / name), f"--workdir={root / name}"]) == 0
    return root


def test_the_exported_models_are_the_runs(exported, unet_run, unet_config):
    task = tasks.of(unet_config, unet_run)
    for name, wanted in {
        "original": task.original_params,
        "raw": task.load_snapshot(unet_run / "train", 12, "params"),
        "plain": sample.load_params(task, "plain"),
    }.items():
        model = folder.read(exported / name)
        assert equal(unet2d.to_params(model.tensors, wanted, name), wanted), name
        assert model.settings["diffusion"] == unet_config.diffusion.to_dict()
    original = folder.read(exported / "original").tensors["conv_in.weight"]
    assert not np.array_equal(original, folder.read(exported / "raw").tensors["conv_in.weight"])


@pytest.mark.parametrize("flags", [[], ["--weights=params"], ["--model=plain"]])
def test_only_a_unet_is_exported(finished_run, config_file, tmp_path, capsys, flags):
    where = [f"--config={config_file}", f"--workdir={finished_run}"]
    line = refused(capsys, "export", tmp_path / "out", *where, *flags)
    assert "model.name = 'dit': only 'unet' can be exported to diffusers" in line
    assert not (tmp_path / "out").exists()


def test_a_transformer_does_not_start_from_an_imported_unet(
    imported, config_file, tmp_path, capsys
):
    where = [f"--config={config_file}", f"--workdir={tmp_path / 'w'}"]
    for command, key in (("unlearn", "unlearn"), ("train", "train")):
        start = f"--config.{key}.init_from={imported / 'original'}"
        line = refused(capsys, command, *where, start)
        assert "config key model.name = 'dit'" in line and "'unet'" in line, line


def test_export_after_import_gives_the_same_bytes(exported, imported, tmp_path):
    for name in ("original", "plain"):
        again = tmp_path / name
        assert cli.main(["export", str(again), f"--workdir={imported / name}"]) == 0
        assert files(again) == files(exported / name)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_weights_survive(exported, tmp_path, dtype):
    from vdu_jax.interop import tensors

    model = folder.read(exported / "original")
    half = {k: v.astype(tensors.NAMED_TYPES[dtype]) for k, v in model.tensors.items()}
    folder.write(tmp_path / "half", without_checksums(model)._replace(tensors=half))
    assert cli.main(["import", str(tmp_path / "half"), f"--workdir={tmp_path / 'w'}"]) == 0
    assert cli.main(["export", str(tmp_path / "again"), f"--workdir={tmp_path / 'w'}"]) == 0
    assert files(tmp_path / "again") == files(tmp_path / "half")


def test_old_attention_names_survive(unet_config, exported, tmp_path):
    model = folder.read(exported / "original")
    like = tasks.of(unet_config).abstract_params
    params = unet2d.to_params(model.tensors, like, "original")
    old = unet2d.to_tensors(params, unet2d.DEPRECATED)
    folder.write(tmp_path / "old", without_checksums(model)._replace(tensors=old))
    assert cli.main(["import", str(tmp_path / "old"), f"--workdir={tmp_path / 'w'}"]) == 0
    assert cli.main(["export", str(tmp_path / "again"), f"--workdir={tmp_path / 'w'}"]) == 0
    assert files(tmp_path / "again") == files(tmp_path / "old")


def test_importing_twice_does_nothing_and_another_model_is_refused(
    exported, imported, tmp_path, capsys
):
    shutil.copytree(imported / "original", tmp_path / "w")
    before = files(tmp_path / "w")
    assert cli.main(["import", str(exported / "original"), f"--workdir={tmp_path / 'w'}"]) == 0
    line = refused(capsys, "import", exported / "plain", f"--workdir={tmp_path / 'w'}")
    assert "use another --workdir" in line
    assert files(tmp_path / "w") == before


def test_the_config_that_import_writes_has_the_models_settings(imported, unet_config):
    path = imported / "original" / "import" / "config.py"
    theirs = cli.parse([f"--config={path}", "--workdir=x"])[0]["config"].value
    for section in ("model", "diffusion"):
        assert theirs[section].to_dict() == unet_config[section].to_dict()
    assert theirs.unlearn.init_from == str(imported / "original")


def test_a_dollar_sign_in_the_workdir_is_no_environment_variable(exported, tmp_path):
    workdir = tmp_path / "a$b"
    escaped = str(workdir).replace("$", "$$")
    assert cli.main(["import", str(exported / "original"), f"--workdir={escaped}"]) == 0
    path = str(workdir / "import" / "config.py").replace("$", "$$")
    config = cli.parse([f"--config={path}", "--workdir=x"])[0]["config"].value
    assert config.unlearn.init_from == str(workdir)


def test_a_run_that_unlearns_an_imported_model(imported, unet_file, tmp_path):
    """Every stage after training, with the posterior over two imported folders."""
    workdir = tmp_path / "w"
    argv = [
        f"--config={unet_file}",
        f"--workdir={workdir}",
        f"--config.unlearn.init_from={imported / 'original'}",
        "--config.posterior.source=runs",
        f"--config.posterior.runs=({str(imported / 'raw')!r},)",
        "--config.evaluate.bits_per_dim_images=0",
    ]
    assert cli.main(["run", *argv]) == 0
    assert not (workdir / "train").exists()
    config = cli.parse(argv)[0]["config"].value
    task = tasks.of(config, workdir)
    first, second = (
        task.load_snapshot(imported / name / "import", 0, "params") for name in ("original", "raw")
    )
    mean = posterior.load(task).mean
    jax.tree.map(
        lambda m, x, y: np.testing.assert_allclose(m, (x + y) / 2, rtol=1e-5, atol=1e-7),
        mean, first, second,
    )  # fmt: skip
    assert equal(task.original_params, first)
    table = artifacts.read_json(workdir / "report" / "table.json")
    assert (table["original"]["steps"], table["original"]["seconds"]) == (0, 0.0)
    exporting.run(tmp_path / "out", config, workdir, "plain")
    assert folder.read(tmp_path / "out").image_shape == SHAPE


def test_the_fisher_posterior_of_a_single_imported_model(imported, unet_file, tmp_path):
    argv = [
        f"--config={unet_file}",
        f"--workdir={tmp_path}",
        f"--config.unlearn.init_from={imported / 'original'}",
        "--config.posterior.family=fisher",
        "--config.posterior.fisher_images=50",
    ]
    assert cli.main(["posterior", *argv]) == 0
    task = tasks.of(cli.parse(argv)[0]["config"].value, tmp_path)
    stored = posterior.load(task)
    first = task.load_snapshot(imported / "original" / "import", 0, "params")
    assert equal(stored.mean, first)
    assert min(float(v.min()) for v in jax.tree.leaves(stored.variance)) > 0


def test_training_starts_from_an_imported_model(imported, unet_file, tmp_path):
    argv = [
        f"--config={unet_file}",
        f"--workdir={tmp_path / 'w'}",
        f"--config.train.init_from={imported / 'plain'}",
    ]
    task = tasks.of(cli.parse(argv)[0]["config"].value, tmp_path / "w")
    start = task.start_params()
    stored = task.load_snapshot(imported / "plain" / "import", 0, "params")
    assert equal(start, stored)
    assert cli.main(["train", *argv, "--config.train.learning_rate=1e-12"]) == 0
    trained = task.load_snapshot(tmp_path / "w" / "train", 12, "params")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), trained, start)


def test_an_imported_model_that_does_not_fit_the_config_is_refused(
    imported, unet_file, tmp_path, capsys
):
    start = [f"--config.unlearn.init_from={imported / 'original'}"]
    common = ["--workdir=" + str(tmp_path / "w"), f"--config={unet_file}"]
    line = refused(capsys, "posterior", *common, *start)
    assert "posterior.source = 'trajectory'" in line and "posterior.runs" in line
    runs = [
        "--config.posterior.source=runs",
        f"--config.posterior.runs=({str(imported / 'raw')!r},)",
    ]
    line = refused(capsys, "posterior", *common, *start, *runs, "--config.model.norm_eps=0.1")
    assert "model.norm_eps = 0.1" in line and "1e-06" in line
    line = refused(capsys, "posterior", *common, *start, *runs, "--config.diffusion.num_steps=99")
    assert "diffusion.num_steps = 99" in line
    line = refused(capsys, "posterior", *common, "--config.unlearn.init_from=/nowhere", *runs)
    assert "/nowhere holds no model" in line
    line = refused(capsys, "train", *common, "--config.train.init_from=/nowhere")
    assert "/nowhere holds no model" in line
    assert not (tmp_path / "w").exists()


def test_images_of_another_size_are_refused(imported, unet_config):
    with pytest.raises(UserError, match=r"makes images \(8, 8, 1\).*\(16, 16, 1\)"):
        tasks.of(unet_config, image_shape=(16, 16, 1)).load_last(
            imported / "original" / "import", "params"
        )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model=nothing"], "--model=nothing: must be one of original, extended, plain"),
        (["--model=plain", "--weights=ema"], "one kind of weights"),
        (["--weights=both"], "--weights=both: must be ema or params"),
        (["--config.train.ema_decay=0.0", "--weights=ema"], "train.ema_decay"),
    ],
)
def test_export_refuses(unet_run, unet_file, tmp_path, capsys, flags, said):
    common = [f"--config={unet_file}", f"--workdir={unet_run}"]
    assert said in refused(capsys, "export", tmp_path / "out", *common, *flags)
    assert not (tmp_path / "out").exists()


def test_export_and_import_without_their_arguments(unet_run, tmp_path, capsys):
    workdir = f"--workdir={unet_run}"
    assert "DIR is missing" in refused(capsys, "export", workdir)
    assert "--workdir is missing" in refused(capsys, "import", tmp_path)
    assert "unexpected argument" in refused(capsys, "import", tmp_path, "more", workdir)
    assert "import" in refused(capsys, "export", tmp_path / "out", workdir)
    line = refused(capsys, "export", tmp_path / "out", workdir, "--model=plain")
    assert "--config is missing" in line


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("unet/config.json", {"norm_num_groups": 5}, "model.num_groups = 5"),
        ("unet/config.json", {"layers_per_block": 1.5}, "model.layers_per_block = 1.5"),
        ("unet/config.json", {"act_fn": "mish"}, "act_fn = 'mish' can't be expressed"),
        ("scheduler/scheduler_config.json", {"beta_end": 1.5}, "beta_end = 1.5 can't be expressed"),
        (
            "scheduler/scheduler_config.json",
            {"num_train_timesteps": "x"},
            "num_train_timesteps = 'x'",
        ),
    ],
)
def test_import_refuses_a_folder_that_cannot_work(
    exported, tmp_path, capsys, edit_json, file, values, said
):
    source = tmp_path / "source"
    shutil.copytree(exported / "plain", source)
    edit_json(source / file, **values)
    line = refused(capsys, "import", source, f"--workdir={tmp_path / 'w'}")
    assert said in line and str(source) in line
    assert not (tmp_path / "w").exists()


@pytest.fixture(scope="module")
def checkpoint(exported, tmp_path_factory):
    """What diffusers' training script saves on the way: two networks, and nothing else."""
    root = tmp_path_factory.mktemp("training") / "checkpoint-500"
    shutil.copytree(exported / "raw" / "unet", root / "unet")
    shutil.copytree(exported / "original" / "unet", root / "unet_ema")
    return root


def test_a_model_without_a_scheduler_has_no_noise_schedule_that_is_known(
    checkpoint, unet_file, tmp_path, capsys
):
    workdir = tmp_path / "w"
    assert cli.main(["import", str(checkpoint), f"--workdir={workdir}", "--weights=ema"]) == 0
    out, written = capsys.readouterr().out, workdir / "import" / "config.py"
    assert f"{checkpoint} has no scheduler_config.json" in out
    assert f"set config.diffusion in {written}" in out
    assert artifacts.read_json(workdir / "import" / "inputs.json")["diffusion"] == "unknown"
    # The config that is written says so, and is refused until the schedule is set.
    assert "config.diffusion.schedule = 'unknown'" in written.read_text()
    ready = written.read_text().replace(
        "    return config", "    config.methods.vdu = vdu_config.method('vdu')\n    return config"
    )
    ready = ready.replace('"runs"', "'trajectory'")
    (tmp_path / "mine.py").write_text(ready)
    argv = [f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'r'}"]
    assert "diffusion.schedule = 'unknown'" in refused(capsys, "posterior", *argv)
    # With the right schedule it is accepted: what is refused is another setting.
    line = refused(capsys, "posterior", *argv, "--config.diffusion.schedule=cosine")
    assert "posterior.source = 'trajectory'" in line
    # Another config has to say it as well, for every way to use the model.
    common = [f"--config={unet_file}", f"--workdir={tmp_path / 'r'}"]
    runs = ["--config.posterior.source=runs", f"--config.posterior.runs=({str(workdir)!r},)"]
    start = f"--config.unlearn.init_from={workdir}"
    for command, flags in {
        "posterior": [start, *runs],
        "train": [f"--config.train.init_from={workdir}"],
    }.items():
        line = refused(capsys, command, *common, *flags)
        assert f"the model in {workdir / 'import'} came without a noise schedule" in line
        assert "unlearn.assume_schedule = True" in line
    for name in ("linear", "cosine"):
        config = cli.parse(
            [
                *common,
                start,
                "--config.unlearn.assume_schedule",
                f"--config.diffusion.schedule={name}",
            ]
        )[0]["config"].value
        assert tasks.of(config, tmp_path / "r").original_folder() == workdir / "import"
    with pytest.raises(UserError, match="model.norm_eps"):
        config.model.norm_eps = 0.1
        tasks.of(config, tmp_path / "r").original_folder()


def test_every_run_of_a_posterior_is_asked_for_its_schedule(
    checkpoint, imported, unet_file, tmp_path, capsys
):
    assert cli.main(["import", str(checkpoint), f"--workdir={tmp_path / 'w'}"]) == 0
    line = refused(
        capsys, "posterior", f"--config={unet_file}", f"--workdir={tmp_path / 'r'}",
        f"--config.unlearn.init_from={imported / 'original'}", "--config.posterior.source=runs",
        f"--config.posterior.runs=({str(tmp_path / 'w')!r},)",
    )  # fmt: skip
    assert f"the model in {tmp_path / 'w' / 'import'} came without a noise schedule" in line


def test_a_scheduler_beside_the_checkpoint_is_pointed_at(checkpoint, exported, tmp_path, capsys):
    shutil.copytree(checkpoint, tmp_path / "run" / "checkpoint-500")
    shutil.copytree(exported / "raw" / "scheduler", tmp_path / "run" / "scheduler")
    source = tmp_path / "run" / "checkpoint-500"
    assert cli.main(["import", str(source), f"--workdir={tmp_path / 'w'}"]) == 0
    assert str(tmp_path / "run" / "scheduler") in capsys.readouterr().out


def test_a_model_without_a_scheduler_is_exported_as_it_came(checkpoint, tmp_path):
    assert cli.main(["import", str(checkpoint / "unet"), f"--workdir={tmp_path / 'w'}"]) == 0
    assert cli.main(["export", str(tmp_path / "again"), f"--workdir={tmp_path / 'w'}"]) == 0
    assert files(tmp_path / "again") == files(checkpoint / "unet")


def test_variants_and_shards_are_imported_and_exported(exported, tmp_path, capsys, split_weights):
    source = tmp_path / "source"
    shutil.copytree(exported / "original", source)
    (source / folder.ORIGIN).unlink()
    whole = folder.read(source).tensors
    split_weights(source / "unet", "bf16")
    assert cli.main(["import", str(source), f"--workdir={tmp_path / 'w'}"]) == 0
    assert "the variant bf16, the only weights in its folder" in capsys.readouterr().out
    assert "# " in (tmp_path / "w" / "import" / "config.py").read_text()
    assert cli.main(["export", str(tmp_path / "again"), f"--workdir={tmp_path / 'w'}"]) == 0
    assert files(tmp_path / "again") == files(source)
    # Of two, one has to be chosen.
    from vdu_jax.interop import tensors

    tensors.write(source / "unet" / "diffusion_pytorch_model.ema.safetensors", whole, {})
    line = refused(capsys, "import", source, f"--workdir={tmp_path / 'v'}")
    assert "--variant=bf16|ema" in line
    flags = [f"--workdir={tmp_path / 'v'}", "--variant=ema"]
    assert cli.main(["import", str(source), *flags]) == 0
    assert "--variant=fp8" in refused(capsys, "import", source, *flags[:1], "--variant=fp8")


def test_another_sampler_is_proposed_and_said(exported, tmp_path, capsys, edit_json):
    source = tmp_path / 'so"urce'  # a path that a docstring has to quote
    shutil.copytree(exported / "original", source)
    edit_json(source / "model_index.json", scheduler=["diffusers", "EulerDiscreteScheduler"])
    edit_json(source / "scheduler" / "scheduler_config.json", _class_name="EulerDiscreteScheduler")
    assert cli.main(["import", str(source), f"--workdir={tmp_path / 'w'}"]) == 0
    assert "EulerDiscreteScheduler is not one of the samplers here" in capsys.readouterr().out
    path = tmp_path / "w" / "import" / "config.py"
    assert "EulerDiscreteScheduler is not one of the samplers here" in path.read_text()
    theirs = cli.parse([f"--config={path}", "--workdir=x"])[0]["config"].value
    assert (theirs.sampler.name, theirs.sampler.clip_x0) == ("ddim", False)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({"_class_name": "LDMPipeline", "vqvae": ["diffusers", "VQModel"]}, "latents"),
        ({"vae": ["diffusers", "AutoencoderKL"]}, "latents of its vae"),
        ({"_class_name": "StableDiffusion3Pipeline"}, "SD 3"),
        ({"_class_name": "StableDiffusionPipeline"}, "`vdu generate`"),
    ],
)
def test_models_of_other_kinds_are_not_imported(exported, tmp_path, capsys, edit_json, index, said):
    source = tmp_path / "source"
    shutil.copytree(exported / "plain", source)
    edit_json(source / "model_index.json", **index)
    assert said in refused(capsys, "import", source, f"--workdir={tmp_path / 'w'}")
    assert not (tmp_path / "w").exists()


ODD = [
    None,
    -1,
    0,
    1.5,
    "x",
    [],
    {},
    True,
    [1, 2],
    [None],
    [[1]],
    ["x"],
    1e30,
    10**30,
    float("nan"),
]


@pytest.mark.parametrize("file", ["unet/config.json", "scheduler/scheduler_config.json"])
def test_any_value_of_any_key_is_read_or_refused_in_one_line(exported, tmp_path, file):
    """Nothing that a JSON file can hold ends in a traceback or takes for ever."""
    source = tmp_path / "source"
    shutil.copytree(exported / "plain", source)
    (source / folder.ORIGIN).unlink()
    original = json.loads((source / file).read_text())
    counts = {"read": 0, "refused": 0}
    for key in [*original, "unknown"]:
        for value in ODD:
            (source / file).write_text(json.dumps(original | {key: value}))
            try:
                model = folder.read(source)
                config = importing.settings_of(model, source)
                importing.known_shape(config, model.image_shape)
                counts["read"] += 1
            except UserError as error:
                assert str(source) in str(error) and "\n" not in str(error)
                counts["refused"] += 1
    assert counts["refused"] > counts["read"] > 0
