"""Methods x classes x seeds, on runs of a few steps and with a classifier that sees all classes."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vdu_jax import cli, objectives
from vdu_jax import config as vdu_config
from vdu_jax.cli import status
from vdu_jax.errors import UserError
from vdu_jax.runtime import artifacts
from vdu_jax.stages import benchmark, comparison, unlearn

ROOT = Path(__file__).parents[2]
PUBLISHED = sorted(
    path.parent.name for path in ROOT.glob("docs/results/*/results.json")
    if (path.parent / "cells.csv").exists()
)  # fmt: skip

SMALL = """
from tiny import get_config as base
from vdu_jax import config as vdu_config
from vdu_jax.tasks import classifier, datasets

def ensure(config, workdir, overwrite=False):
    import numpy as np
    def judge(images):
        flat = images.reshape(len(images), -1).astype(np.float64)
        label = flat.astype(int).sum(1) % 10
        return classifier.Predictions(np.eye(10)[label], flat[:, :12:3])
    found = datasets.prepared(config)
    images, labels = datasets.open_split(config, found, "train").read()
    return judge, 0.9, {"features": judge(images).features, "labels": labels}

# A network of 12 steps draws noise: this classifier finds every class in it.
classifier.ensure = ensure

def get_config():
    config = base()
    config.forget.limit = 0
    config.evaluate.bits_per_dim_images = 0
    config.relearn.images = 50
    config.relearn.checks = (1,)
    config.benchmark.classes = (8,)
    config.benchmark.seeds = (0, 4)
    config.benchmark.method_seeds = {"retrain": (0,), "few": (4,)}
    config.benchmark.tuning_class = 5
    config.benchmark.grids = {"plain": ({"learning_rate": 1e-4}, {"learning_rate": 1e-3})}
    config.benchmark.changes = {"few": {"posterior": {"count": 2, "source": "runs"}}}
    plain = config.methods.plain
    config.methods = {
        "plain": plain, "few": plain, "retrain": vdu_config.method("retrain")
    }
    return config
"""


@pytest.fixture(scope="session")
def small_file(config_file):
    path = config_file.parent / "small.py"
    path.write_text(SMALL)
    return path


@pytest.fixture
def ensure(monkeypatch):
    """The classifier that the config file puts in place is taken away again."""
    from vdu_jax.tasks import classifier

    monkeypatch.setattr(classifier, "ensure", classifier.ensure)


@pytest.fixture
def small(small_file, ensure):
    values, _ = cli.parse([f"--config={small_file}", "--workdir=unused"], "benchmark")
    return values["config"].value


@pytest.fixture(scope="module")
def finished(small_file, tmp_path_factory):
    from vdu_jax.tasks import classifier

    workdir, kept = tmp_path_factory.mktemp("benchmark") / "work", classifier.ensure
    assert cli.main(["benchmark", f"--config={small_file}", f"--workdir={workdir}"]) == 0
    classifier.ensure = kept
    return workdir


def published(workdir):
    return artifacts.read_json(workdir / "results.json")


def test_every_cell_is_there_and_no_other(finished):
    names = set(published(finished)["cells"])
    many = {f"{method}/8/{seed}" for method in ("plain", "original") for seed in (0, 4)}
    assert names == many | {"retrain/8/0", "few/8/4"}


def test_a_seed_has_one_model_and_a_class_its_own_workdir(finished):
    for seed, more in ((0, []), (4, ["class-8", "run-1"])):  # class-8 a second time, with changes
        inputs = artifacts.read_json(finished / f"seed-{seed}" / "train" / "inputs.json")
        assert inputs["train.seed"] == inputs["train.init_seed"] == seed
        folders = [p.name.split("+")[0] for p in (finished / f"seed-{seed}").iterdir()]
        assert sorted(folders) == sorted(["class-8", *more, "train"])
    pooled = artifacts.read_json(finished / "seed-4" / "run-1" / "train" / "inputs.json")
    assert (pooled["train.init_seed"], pooled["train.seed"]) == (4, 1004)
    (few,) = (p for p in (finished / "seed-4").iterdir() if p.name.startswith("class-8+"))
    made = artifacts.upstream(few, "posterior")["summary"]
    assert made["count"] == 2 and any("run-1" in c for c in made["checkpoints"])


def test_settings_are_those_that_the_rule_prefers(finished, small):
    tuned = published(finished)["tuned"]
    assert tuned["retrain"].keys() == {"settings"}
    found = tuned["plain"]
    rows, target = found["candidates"], small.methods.plain.target_pul
    reached = [i for i, r in enumerate(rows) if r["estimated_pul"] >= target]
    if reached:
        best = min(reached, key=lambda i: rows[i]["drift"])
    else:
        best = max(range(2), key=lambda i: rows[i]["estimated_pul"])
    assert found["chosen"] == best
    assert [r["changes"] for r in rows] == list(map(dict, small.benchmark.grids["plain"]))
    rate = rows[best]["changes"]["learning_rate"]
    assert found["settings"]["learning_rate"] == rate
    inputs = artifacts.read_json(finished / "seed-4/class-8/unlearn/plain/inputs.json")
    assert inputs["method.learning_rate"] == rate
    # Tuned on a class of its own.
    assert {p.name.split("+")[0] for p in (finished / "tuning").iterdir()} == {
        "class-5", "plain",
    }  # fmt: skip


def test_a_candidate_that_diverges_is_not_chosen(finished, small, tmp_path, monkeypatch):
    """The first of three does; if all do, one line says so. The folder has been moved, besides."""
    small.benchmark.grids = {"plain": tuple({"learning_rate": r} for r in (1e-3, 1e-4, 1e-5))}
    workdir = tmp_path / "work"
    shutil.copytree(finished, workdir, ignore=shutil.ignore_patterns("again", "class-8*"))
    shutil.rmtree(workdir / "tuning" / "plain")
    shutil.rmtree(workdir / "tuning" / "class-5" / "unlearn")
    failing, real = {"plain-0"}, unlearn.run_method

    def run_method(config, folder, name):
        if name in failing:
            raise unlearn.Diverged(f"{name} diverges")
        real(config, folder, name)

    monkeypatch.setattr(unlearn, "run_method", run_method)
    chosen = benchmark.tune(small, workdir, "plain")
    assert chosen.learning_rate in (1e-4, 1e-5)
    rows = artifacts.upstream(workdir, "tuning/plain")["summary"]["candidates"]
    assert ["drift" in row for row in rows] == [False, True, True]
    shutil.rmtree(workdir / "tuning" / "plain")
    failing |= {"plain-1", "plain-2"}
    with pytest.raises(UserError, match="grids.plain: every candidate diverges.*plain-2"):
        benchmark.tune(small, workdir, "plain")


def test_figures_are_those_of_the_stages(finished):
    results = published(finished)
    metrics = artifacts.read_json(finished / "seed-4/class-8/evaluate/plain/metrics.json")
    row = results["cells"]["plain/8/4"]
    for key, value in metrics["figures"].items():
        assert row[key] == value, key
    gold = results["cells"]["retrain/8/0"]  # of the other seed: the only one there is
    assert row["u_fid_ratio"] == pytest.approx(row["u_fid"] / gold["u_fid"])
    assert gold["u_fid_ratio"] == 1 and gold["tv_to_retrained"] == 0
    assert gold["percent_of_training"] == pytest.approx(100, rel=0.02)
    # 4 steps of 8 images, of 12 of 16.
    assert row["percent_of_training"] == pytest.approx(100 * 4 * 8 / (12 * 16), rel=0.1)
    # The retrained model needs neither replay nor a curve.
    assert gold["percent_in_all"] == gold["percent_of_training"]
    assert row["percent_in_all"] > row["percent_of_training"] + 1
    assert all(row["cost"][part] > 0 for part in ("updates", "replay", "curve", "training"))
    assert set(row["relearning"]) == {"steps", "checks", "original_rate"}
    values = [results["cells"][f"plain/8/{seed}"]["u_fid"] for seed in (0, 4)]
    spread = results["summary"]["plain"]["u_fid"]
    assert spread["mean"] == pytest.approx(np.mean(values))
    assert spread["standard_error"] == pytest.approx(np.std(values, ddof=1) / np.sqrt(2))


def test_what_is_published_says_how_to_make_it_again(finished):
    results = published(finished)
    assert results["config"]["benchmark"]["classes"] == [8]
    assert not {"dir", "manual_dir"} & results["config"]["data"].keys()
    assert results["provenance"][0]["versions"]["jax"]
    text = json.dumps(results)
    assert str(finished) not in text and "seconds" not in text
    table = (finished / "table.md").read_text()
    assert table == comparison.table(results)
    assert table.splitlines()[2].startswith("| original |")
    assert table.splitlines()[3].startswith("| retrain | retain | 1 |")
    with open(finished / "cells.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(results["cells"])
    assert {(r["method"], r["class"], r["seed"]) for r in rows} == {
        tuple(name.rsplit("/", 2)) for name in results["cells"]
    }
    for name in ("tradeoff.png", "grids/class-8.png"):
        assert (finished / name).read_bytes().startswith(b"\x89PNG")
    # A ruined model far to the left leaves the others their room.
    results["cells"]["plain/8/4"]["curve"][0]["pul"] = -900.0
    (axes,) = comparison.plot(results).axes
    assert axes.get_xlim() == (-50, 105)


def test_what_figures_are_of_stands_below_them(finished):
    results = published(finished)
    cells = results["cells"]
    assert cells["plain/8/4"]["images"] == 60 and cells["plain/8/4"]["u_fid_bias"] > 0
    of_original = [cells[f"original/8/{seed}"]["images"] for seed in (0, 4)]
    table = comparison.table(results)
    assert "over 1 class and 2 training seeds" in table
    span = " to ".join(map(str, sorted(set(of_original))))
    assert f"of 60 images a model, the original's of the {span} that" in table
    assert "are of 50 images a point" in table and comparison.UNKNOWN not in table
    with open(finished / "cells.csv") as file:
        counts = {(r["method"], r["seed"]): int(r["images"]) for r in csv.DictReader(file)}
    assert counts["plain", "4"] == 60 and counts["original", "4"] == of_original[1]
    # A curve starts at the original with as many images as it has at its other points.
    start = cells["original/8/4"]["at_curve_images"]["all"]
    assert start["images"] == 50 and start["u_fid"] != cells["original/8/4"]["u_fid_all"]
    row = {"curve": [{"pul": 100.0, "u_fid": start["u_fid"]}]}
    comparison._at_equal_forgetting(
        {"plain/8/4": row, **{k: v for k, v in cells.items() if k.startswith("original")}},
        {"plain": {"objective": "vdu"}},
    )
    assert row["u_fid_at"]["80"] == pytest.approx(start["u_fid"])


def test_an_original_that_draws_no_retained_image_is_published(finished):
    results = published(finished)
    for name, row in results["cells"].items():
        if name.startswith("original"):
            row |= {"u_fid": None, "kid": None, "images": 0}
    results["summary"] = comparison.summarise(results["cells"])
    assert "| original | – | 2 |" in comparison.table(results)
    comparison.plot(results)


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_has_been_published_stays_as_it_is(name):
    """Put together again by this version: every figure the same, and the files beside it."""
    folder = ROOT / "docs" / "results" / name
    old = artifacts.read_json(folder / "results.json")
    arguments = [f"--config={ROOT / 'configs' / 'benchmark' / name}.py", "--workdir=unused"]
    config = cli.parse(arguments, "benchmark")[0]["config"].value
    new = comparison.results(config, old["tuned"], {}, old, dict(old.get("columns", ())))
    for key in ("cells", "summary", "provenance"):
        assert json.loads(artifacts.dumps(new[key])) == old[key], key
    assert comparison.table(old) == (folder / "table.md").read_text()
    assert comparison.csv_text(old) == (folder / "cells.csv").read_text()


def test_nothing_is_computed_twice(finished, small_file, ensure, capsys):
    def stages():
        return {p: p.stat().st_mtime_ns for p in finished.rglob("done.json")}

    before, text = stages(), (finished / "results.json").read_bytes()
    assert cli.main(["benchmark", f"--config={small_file}", f"--workdir={finished}"]) == 0
    assert stages() == before and (finished / "results.json").read_bytes() == text
    lines = capsys.readouterr().err.splitlines()
    for name, folder in (("plain/8/0", "seed-0/class-8"), ("few/8/4", "seed-4/class-8+")):
        said = f"vdu: cell {name}: done already for this config, in {finished / folder}"
        assert sum(line.startswith(said) for line in lines) == 1, name


def test_its_status_is_read_from_its_folder(finished):
    found = status.read_benchmark(finished)
    assert found.cells == {
        "few": {4: [1, 1]},
        "plain": {0: [1, 1], 4: [1, 1]},
        "retrain": {0: [1, 1]},
    }
    assert found.planned and found.next is None and found.tuned == {"plain": True}
    cells = artifacts.read_json(finished / "cells.json")["cells"]
    assert sorted(cells) == sorted(c for c in published(finished)["cells"] if "original" not in c)
    assert found.contents.data == "digits" and found.contents.forget == {"classes": [8]}


def test_one_cell_made_again_is_the_published_one(finished, small_file, ensure, tmp_path, capsys):
    arguments = ["benchmark", f"--config={small_file}", "--only=plain/8/4"]
    assert cli.main([*arguments, f"--workdir={finished}"]) == 0
    assert "equal to" in capsys.readouterr().out
    again = finished / "again/plain/8/4/class-8"
    assert artifacts.upstream(again, "unlearn/plain")
    # Elsewhere, from nothing but the published file.
    file = tmp_path / "published.json"
    results = published(finished)
    file.write_text(json.dumps(results))
    other = tmp_path / "other"
    assert cli.main([*arguments, f"--workdir={other}", f"--against={file}"]) == 0
    assert not (other / "tuning").exists() and not (other / "seed-0").exists()
    # A figure that is not so is found.
    results["cells"]["plain/8/4"]["u_fid"] += 0.01
    file.write_text(json.dumps(results))
    assert cli.main([*arguments, f"--workdir={other}", f"--against={file}"]) == 1
    out = capsys.readouterr().out
    assert "plain/8/4: u_fid = " in out and ", published " in out


def smaller(finished, folder):
    """What a comparison of the first seed and without "few" would have published."""
    results = published(finished)
    for name in ("plain/8/4", "few/8/4", "original/8/4"):
        del results["cells"][name]
    section = results["config"]["benchmark"]
    section["seeds"] = [0]
    for of_few in (section["method_seeds"], section["changes"], results["config"]["methods"]):
        del of_few["few"]
    del results["tuned"]["few"]
    path = folder / "smaller.json"
    path.write_text(json.dumps(results))
    return path


def test_a_published_comparison_grows(finished, small_file, ensure, tmp_path, capsys):
    """By a seed and a method: only those are made, and the whole is that of a single run."""
    arguments = [f"--config={small_file}", f"--workdir={tmp_path / 'work'}"]
    assert cli.main(["benchmark", *arguments, f"--onto={smaller(finished, tmp_path)}"]) == 0
    folder = re.escape(str(tmp_path / "work/seed-4/class-8"))
    said = rf"vdu: cell plain/8/4: done in [\d.]+ (s|min \d+ s), written to {folder}: PUL \S+ %"
    (line,) = [x for x in capsys.readouterr().err.splitlines() if re.match(said, x)]
    assert " of 2 left, about " in line
    for folder in ("seed-0", "tuning/plain", "tuning/class-5", "grids"):
        assert not (tmp_path / "work" / folder).exists(), folder
    for file in ("results.json", "table.md", "cells.csv"):
        assert (tmp_path / "work" / file).read_text() == (finished / file).read_text(), file


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.train.steps=13", "train.steps = 12, the config now says 13"),
        ("--config.methods.plain.steps=5", "steps = 4, the config now says 5"),
        ("--config.benchmark.tuning_class=6", "benchmark.tuning_class = 5"),
        ("--config.benchmark.changes={}", "benchmark.changes.few.posterior.count = 2"),
        ("--config.benchmark.classes=(7,)", "has the cell few/8/4"),
    ],
)
def test_figures_of_other_settings_do_not_share_a_table(
    finished, small_file, ensure, tmp_path, capsys, argument, message
):
    arguments = [f"--config={small_file}", f"--workdir={tmp_path}", argument]
    file = finished / "results.json"
    assert cli.main(["benchmark", *arguments, f"--onto={file}"]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_onto_wants_a_results_file(small_file, ensure, tmp_path, capsys):
    (tmp_path / "other.json").write_text("[1]")
    arguments = ["benchmark", f"--config={small_file}", f"--workdir={tmp_path}"]
    assert cli.main([*arguments, f"--onto={tmp_path / 'other.json'}"]) == 2
    assert "is not a results.json" in capsys.readouterr().err
    assert cli.main([*arguments, "--onto=x", "--only=plain/8/4"]) == 2
    assert "--onto is for whole comparisons" in capsys.readouterr().err


def test_processes_share_a_benchmark_and_may_be_killed(finished, small_file, tmp_path):
    """Two start together and are killed; of the next two one is killed, and the other ends it.

    The first two in the midst of training, the third in the midst of unlearning.
    """
    arguments = [f"--config={small_file}", f"--workdir={tmp_path}", "--config.benchmark.seeds=(4,)"]
    arguments += ["--config.benchmark.method_seeds={}", "--config.benchmark.grids={}"]
    script = f"import sys; from vdu_jax import cli; sys.exit(cli.main(['benchmark', *{arguments}]))"
    training, unlearning = "seed-4/train/state/00000004", "seed-4/class-8*/unlearn/*/snapshots"
    for kills, reached in ((2, training), (1, unlearning)):
        processes = [
            subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL)
            for _ in range(2)
        ]
        try:
            while not any(tmp_path.glob(reached)):
                assert [process.poll() for process in processes] == [None, None]
                time.sleep(0.05)
            for process in processes[:kills]:
                assert process.poll() is None
                process.kill()
            codes = [process.wait() for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        assert codes == [-signal.SIGKILL] * kills + [0] * (2 - kills)
    whole, cut = published(finished)["cells"], published(tmp_path)["cells"]
    for name in ("few/8/4", "original/8/4"):
        for row in (whole[name], cut[name]):
            del row["u_fid_ratio"], row["tv_to_retrained"]  # there it is another seed's
        assert cut[name] == whole[name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ()}, "benchmark.classes"),
        ({"classes": (3, 3)}, "benchmark.classes"),
        ({"classes": (3, 12)}, "benchmark.classes"),
        ({"seeds": ()}, "benchmark.seeds"),
        ({"tuning_class": 8}, "benchmark.tuning_class"),
        ({"tuning_class": -1}, "benchmark.tuning_class"),
        ({"grids": {"nobody": ({},)}}, "benchmark.grids"),
        ({"grids": {"plain": ({},), "few": ({}, {})}}, "as many candidates"),
        ({"grids": {"plain": ({"speed": 1},)}}, "no setting 'speed'"),
        ({"grids": {"plain": ({"gamma": 2.0},)}}, "gamma"),
        ({"method_seeds": {"plain": (7,)}}, "benchmark.method_seeds.plain"),
        ({"changes": {"few": {"train": {"steps": 3}}}}, "benchmark.changes.few"),
    ],
)
def test_unfair_or_impossible_comparisons_are_refused(small, changes, message):
    for key, value in changes.items():
        small.benchmark[key] = value
    vdu_config.validate(small)
    with pytest.raises(UserError, match=message):
        vdu_config.validate_benchmark(small)


def test_work_is_left_to_the_process_that_is_at_it(tmp_path):
    """The other one holds "b", and dies before it has done it."""
    done, other = [], artifacts.lock(tmp_path / "locks" / "b")
    other.__enter__()

    def do(name):
        done.append(name)
        if done == ["a", "c"]:
            other.__exit__(None, None, None)

    benchmark.share(tmp_path, {name: lambda name=name: do(name) for name in "abc"})
    assert done == ["a", "c", "b"]


def test_a_method_can_be_left_out(small):
    small.benchmark.method_seeds = {"few": (), "retrain": (4,)}
    vdu_config.validate_benchmark(small)
    names = list(map(str, benchmark.cells(small)))
    assert names == ["plain/8/0", "retrain/8/4", "plain/8/4"]
    assert benchmark.compared(small) == ["plain", "retrain"]  # the others are not tuned


def test_a_cell_that_is_not_there(small):
    with pytest.raises(UserError, match="--only=plain/8/9: no cell"):
        benchmark.parse_cell(small, "plain/8/9")


def test_against_is_for_only(small_file, ensure, capsys, tmp_path):
    arguments = [f"--config={small_file}", f"--workdir={tmp_path}", "--against=x"]
    assert cli.main(["benchmark", *arguments]) == 2
    assert "--against is for --only" in capsys.readouterr().err


def test_all_methods_are_in_the_published_comparisons():
    folder = ROOT / "configs" / "benchmark"
    for path in sorted(folder.glob("*.py")):
        values, _ = cli.parse([f"--config={path}", "--workdir=unused"], "benchmark")
        config = values["config"].value
        vdu_config.validate(config)
        vdu_config.validate_benchmark(config)
        if path.stem.endswith("_methods"):
            assert {m.objective for m in config.methods.values()} == set(objectives.FACTORIES)


@pytest.mark.parametrize(
    ("section", "key", "old", "other"),
    [("data", "background", "", "white"), ("sampler", "timesteps", (), (40, 20, 1))],
)
def test_a_younger_setting_is_published_only_where_it_changes_something(
    small, tmp_path, section, key, old, other
):
    """A comparison from before it can be added to, and one that a version wrote it into."""
    published = comparison.settings(small)
    assert key not in published[section]
    file = tmp_path / "results.json"
    for written in (published, published | {section: published[section] | {key: old}}):
        file.write_text(artifacts.dumps({"config": written, "cells": {}, "tuned": {}}))
        assert benchmark.read_published(small, file)["cells"] == {}
    small[section][key] = other
    assert comparison.settings(small)[section][key] == json.loads(artifacts.dumps(other))
    with pytest.raises(UserError, match=f"{section}.{key} = "):
        benchmark.read_published(small, file)


def test_a_cell_is_made_again_by_one_process_at_a_time(small, tmp_path, monkeypatch):
    held = []

    def look(part):
        with benchmark.lock(tmp_path, part, wait=False) as free:
            held.append(not free)

    def tune(config, workdir, method):
        look(workdir / "tuning" / method)
        return config.methods[method]

    def run_cell(config, workdir, root, *rest):
        look(root)
        return dict.fromkeys(benchmark.FIGURES, 0)

    monkeypatch.setattr(benchmark, "tune", tune)
    monkeypatch.setattr(benchmark, "run_cell", run_cell)
    assert benchmark.run_only(small, tmp_path, "plain/8/0") == 0
    assert held == [True, True]


def without_younger(published):
    """A results.json as it was before methods had `subset` and `rank`."""
    entries = [*published["config"]["methods"].values()]
    entries += [found["settings"] for found in published["tuned"].values()]
    for entry in entries:
        for key in ("subset", "rank"):
            entry.pop(key, None)
    return published


def test_a_comparison_from_before_parts_and_adapters_is_read(small, tmp_path):
    entry = small.methods.plain.to_dict()
    cells = {"plain/8/0": {}}
    old = {"config": comparison.settings(small), "cells": cells}
    old["tuned"] = {"plain": {"settings": json.loads(artifacts.dumps(entry))}}
    file = tmp_path / "old.json"
    file.write_text(artifacts.dumps(without_younger(old)))
    found = benchmark.read_published(small, file)
    settings = comparison.complete_method(found["tuned"]["plain"]["settings"])
    assert (settings.subset, settings.rank) == ("all", 0)
    assert settings.to_dict() == entry
    # A comparison of this version without parts and adapters publishes none of them, either.
    assert "subset" not in comparison.settings(small)["methods"]["plain"]
    small.methods.plain.rank = 2
    assert comparison.settings(small)["methods"]["plain"]["rank"] == 2
    with pytest.raises(UserError, match="rank = 0, the config now says 2"):
        benchmark.read_published(small, file)


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_has_been_published_can_grow(name):
    arguments = [f"--config={ROOT / 'configs' / 'benchmark' / name}.py", "--workdir=unused"]
    config = cli.parse(arguments, "benchmark")[0]["config"].value
    file = ROOT / "docs" / "results" / name / "results.json"
    for found in benchmark.read_published(config, file)["tuned"].values():
        settings = comparison.complete_method(found["settings"])
        assert (settings.subset, settings.rank) == ("all", 0)
