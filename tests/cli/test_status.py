"""What `vdu status` says of workdirs in every state, from their files alone."""

import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vdu_jax import cli
from vdu_jax.cli import status
from vdu_jax.errors import UserError
from vdu_jax.runtime import artifacts

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workdir(finished_run, tmp_path):
    """A copy of a finished run, free to change."""
    shutil.copytree(finished_run, tmp_path / "a run")
    return tmp_path / "a run"


def states(found):
    """Part -> state, of those that are not just done."""
    parts = [part for stage in found.stages.values() for part in stage]
    return {part.name: part.state for part in parts if part.state != "done"}


def part_of(found, name):
    (part,) = [p for p in found.stages[name.split("/")[0]] if p.name == name]
    return part


def continued(workdir, more=""):
    """The command that goes on from a workdir named "a run", as a shell takes it."""
    return f"vdu run --config=FILE --workdir='{workdir}'{more}"


def test_a_finished_run(finished_run):
    found = status.read(finished_run)
    contents = found.contents
    assert (contents.task, contents.data, contents.network) == ("unconditional", "digits", "dit")
    assert contents.forget["classes"] == list(range(9)) and contents.forget["limit"] == 150
    assert contents.class_names == [str(i) for i in range(10)]
    assert contents.settings["train.steps"] == 12 and contents.settings["sampler.steps"] == 3
    assert list(found.stages) == [
        "train", "posterior", "replay", "unlearn", "samples", "classifier", "evaluate", "report",
    ]  # fmt: skip
    assert states(found) == {} and found.next is None and found.holders == []
    assert [part.name for part in found.stages["samples"]] == [
        "samples/original", "samples/extended", "samples/plain",
    ]  # fmt: skip
    train = part_of(found, "train")
    assert train.steps == 12 and train.seconds == artifacts.timings(finished_run / "train")["total"]
    measured = artifacts.read_json(finished_run / "evaluate" / "metrics.json")["models"]
    assert found.figures == {
        model: {"pul": row["pul"], "u_fid": row["u_fid"]} for model, row in measured.items()
    }
    assert set(found.figures) == {"original", "extended", "plain"}
    for method, objective in (("plain", "vdu"), ("extended", "vdu_extended")):
        summary = artifacts.upstream(finished_run, f"unlearn/{method}")["summary"]
        assert found.methods[method] == {
            "objective": objective, "kept_step": summary["kept_step"], "steps": 4,
        }  # fmt: skip
    files = [path for path in finished_run.rglob("*") if path.is_file()]
    assert found.bytes == sum(path.stat().st_size for path in files)


def test_what_is_printed(finished_run, capsys):
    assert cli.main(["status", str(finished_run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{finished_run}: unconditional model (dit) of digits, to forget cl")
    assert lines[0].endswith("classes 0, 1, 2, 3, 4, 5, 6, 7, 8")
    assert any(line.startswith("train       done        ") for line in lines)
    assert any(line.startswith("unlearn     done        extended, plain: ") for line in lines)
    report = finished_run / "report" / "report.html"
    assert lines[-1] == f"next      nothing is left to do; see {report}" and report.exists()
    found = status.read(finished_run)
    row = next(line.split() for line in lines if line.startswith("plain "))
    assert row[1] == str(found.methods["plain"]["kept_step"])
    assert row[2:] == [
        f"{found.figures['plain']['pul']:.1f}",
        f"{found.figures['plain']['u_fid']:.2f}",
    ]
    assert cli.main(["status", "--json", str(finished_run)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    read = json.loads(line)
    assert read["kind"] == "run" and read["next"] is None
    assert read["stages"]["train"][0]["state"] == "done"
    assert read["figures"] == found.figures and read["methods"] == found.methods


def test_colours_are_for_terminals(finished_run, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert cli.main(["status", str(finished_run)]) == 0
    assert "\x1b[1mtrain\x1b[0m       \x1b[32mdone\x1b[0m        " in capsys.readouterr().out
    assert cli.main(["status", "--json", str(finished_run)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_nothing_is_written_or_locked_and_jax_is_not_needed(workdir):
    before = {path: path.stat().st_mtime_ns for path in (workdir, *workdir.rglob("*"))}
    code = (
        "import fcntl, sys\n"
        "from vdu_jax import cli\n"
        "fcntl.flock = fcntl.lockf = lambda *given: 1 / 0\n"
        "assert cli.main(['status', sys.argv[1]]) == 0\n"
        "assert not {'jax', 'orbax', 'tensorflow_datasets'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(workdir)], env=os.environ | {"JAX_PLATFORMS": "nonsense"},
        check=True,
    )  # fmt: skip
    assert {path: path.stat().st_mtime_ns for path in (workdir, *workdir.rglob("*"))} == before


def test_stages_that_are_missing_or_begun(workdir, capsys):
    shutil.rmtree(workdir / "report")
    (workdir / "evaluate" / "plain" / "done.json").unlink()
    (workdir / "unlearn" / "extended" / "done.json").unlink()
    shutil.rmtree(workdir / "samples" / "extended")
    found = status.read(workdir)
    assert states(found) == {
        "unlearn/extended": "begun", "samples/extended": "missing", "evaluate/plain": "begun",
        "report": "missing",
    }  # fmt: skip
    assert set(found.methods) == {"plain"} and set(found.figures) == {"original", "extended"}
    assert found.next == continued(workdir)
    assert cli.main(["status", str(workdir)]) == 0
    lines = capsys.readouterr().out.splitlines()
    said = "extended: the state of step 4 of 4 is saved; plain: done"
    assert f"unlearn     begun       {said}" in lines
    assert "samples     begun       original, plain: done; extended: missing" in lines
    assert "report      missing" in lines
    assert lines[-1] == f"next      {found.next}"


def test_how_far_training_has_come(workdir, capsys):
    for name in set(os.listdir(workdir)) - {"train"}:
        shutil.rmtree(workdir / name)
    (workdir / "train" / "done.json").unlink()
    found = status.read(workdir)
    assert (part_of(found, "train").step, part_of(found, "train").steps) == (12, 12)
    shutil.rmtree(workdir / "train" / "state" / "00000012")
    found = status.read(workdir)
    assert (part_of(found, "train").step, part_of(found, "train").steps) == (8, 12)
    assert list(states(found).values()) == ["begun"] + 6 * ["missing"]
    assert found.next == continued(workdir) and found.methods == found.figures == {}
    # What is cut off is no state to go on from; without any, training starts again.
    file = next(p for p in (workdir / "train/state/00000008/state").rglob("*") if p.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1])
    part = part_of(status.read(workdir), "train")
    assert part.state == "damaged" and part.why.startswith(f"{file} has ")
    shutil.rmtree(workdir / "train" / "state")
    assert part_of(status.read(workdir), "train").step is None
    assert cli.main(["status", str(workdir)]) == 0
    assert "begun       no state of its 12 steps is saved yet" in capsys.readouterr().out


def damage_checkpoint(workdir):
    file = next((workdir / "train" / "snapshots" / "00000009").rglob("d/*"))
    file.unlink()
    return "train", f"{file} is missing"


def damage_snapshot(workdir):
    shutil.rmtree(workdir / "unlearn" / "plain" / "snapshots" / "00000002")
    return "unlearn/plain", f"{workdir / 'unlearn/plain/snapshots'} has no step 2"


def damage_posterior(workdir):
    file = next((workdir / "posterior" / "gaussian" / "00000000").rglob("d/*"))
    size = file.stat().st_size
    file.write_bytes(b"")
    return "posterior", f"{file} has 0 bytes, and had {size}"


def damage_marker(workdir):
    (workdir / "replay" / "done.json").write_text('{"finger')
    return "replay", f"{workdir / 'replay/done.json'} is no JSON object"


def damage_inputs(workdir):
    (workdir / "samples" / "plain" / "inputs.json").write_text("[]")
    return "samples/plain", f"{workdir / 'samples/plain/inputs.json'} is no JSON object"


@pytest.mark.parametrize(
    "damage",
    [damage_checkpoint, damage_snapshot, damage_posterior, damage_marker, damage_inputs],
)
def test_damage_is_named_with_what_to_do(workdir, capsys, damage):
    name, said = damage(workdir)
    found = status.read(workdir)
    assert states(found) == {name: "damaged"}
    folder = workdir / name
    repair = f"put it back from a copy, or delete {folder} and run again"
    assert part_of(found, name).why == f"{said}: {repair}"
    assert cli.main(["status", str(workdir)]) == 0
    *_, first, last = capsys.readouterr().out.splitlines()
    assert first == "first     repair or delete what is damaged"
    assert last == f"next      {continued(workdir)}"


@pytest.mark.parametrize(
    ("made_again", "outdated"),
    [
        ("train", {"posterior", "replay", "unlearn/plain", "unlearn/extended", "samples/original"}),
        ("posterior", {"unlearn/plain", "unlearn/extended", "report"}),
        ("replay", {"unlearn/plain", "unlearn/extended", "evaluate/original"}),
        ("unlearn/plain", {"samples/plain"}),
        ("evaluate/plain", {"report"}),
    ],
)
def test_what_another_config_has_made_is_outdated(workdir, edit_json, made_again, outdated):
    edit_json(workdir / made_again / "done.json", fingerprint="another")
    found = status.read(workdir)
    assert states(found) == dict.fromkeys(outdated, "outdated")
    of = "model" if made_again == "train" else made_again
    for name in outdated:
        assert part_of(found, name).why == f"made from another {of} than the one that is there"
    assert found.next == continued(workdir, " --overwrite")


def test_a_report_without_a_method_that_was_added_is_outdated(workdir):
    for stage in ("unlearn", "samples", "evaluate"):
        shutil.copytree(workdir / stage / "plain", workdir / stage / "added")
    inputs = workdir / "evaluate" / "added" / "inputs.json"
    inputs.write_text(inputs.read_text().replace("samples/plain", "samples/added"))
    found = status.read(workdir)
    assert states(found) == {"report": "outdated"}
    assert part_of(found, "report").why == "made without evaluate/added"
    assert set(found.methods) == {"added", "extended", "plain"}


def test_a_model_from_elsewhere_and_methods_without_a_posterior(workdir):
    shutil.rmtree(workdir / "train")
    shutil.rmtree(workdir / "posterior")
    found = status.read(workdir)
    assert states(found) == {"train": "not needed", "posterior": "missing"}
    for inputs in workdir.glob("unlearn/*/inputs.json"):
        kept = {k: v for k, v in artifacts.read_json(inputs).items() if k != "upstream.posterior"}
        inputs.write_text(json.dumps(kept))
    found = status.read(workdir)
    assert states(found) == {"train": "not needed", "posterior": "not needed"}
    assert found.next is None


def test_an_imported_model_has_a_config_to_start_from(tmp_path):
    folder = tmp_path / "import"
    folder.mkdir()
    (folder / "inputs.json").write_text(json.dumps({"model.dropout": 0.0}))
    (folder / "done.json").write_text(json.dumps({"fingerprint": "f", "summary": {"steps": 0}}))
    found = status.read(tmp_path)
    assert found.next == f"vdu run --config={folder / 'config.py'} --workdir={tmp_path}"
    assert found.contents.network == "unet" and found.contents.task == "unconditional"


@pytest.mark.parametrize(
    ("inputs", "task", "said"),
    [
        ({"model.name": "stable_diffusion", "data.name": "tinted_fashion"}, "text_to_image",
         "text-to-image model (stable_diffusion) of tinted_fashion"),
        ({"forget.phrase": "red", "condition.drop": 0.1}, "text_to_image",
         "text-to-image model, to forget 'red'"),
        ({"model.num_class_embeds": 11, "forget.classes": [1]}, "class_conditional",
         "class-conditional model (unet), to forget class 1"),
        ({"condition.guidance": 2.0, "forget.classes": [0, 3]}, "class_conditional",
         "class-conditional model, to forget classes 0, 3"),
        ({}, None, "no stage has recorded its settings yet"),
    ],
)  # fmt: skip
def test_what_kind_of_model_it_is(tmp_path, inputs, task, said):
    contents = status._contents(inputs, tmp_path / "train")
    assert contents.task == task and status._subject(contents) == said


def test_a_process_at_work(workdir, capsys):
    shutil.rmtree(workdir / "report")
    with artifacts.claim(workdir):
        (holder,) = status.read(workdir).holders
        assert (holder.pid, holder.host, holder.at) == (os.getpid(), platform.node(), "")
        assert holder.alive and status.read(workdir).next is None
        assert cli.main(["status", str(workdir)]) == 0
        out = capsys.readouterr().out
        assert f"at work   process {os.getpid()} on {platform.node()} since {holder.since}\n" in out
        assert "next      wait for that process; if it is stopped, the same command cont" in out
        with open(workdir / ".lock") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it has kept its lock
    assert status.read(workdir).holders == []


def test_a_process_that_was_killed_and_one_of_another_machine(workdir, capsys):
    shutil.rmtree(workdir / "report")
    left = {"host": platform.node(), "pid": os.getpid(), "since": "2026-01-01 00:00:00"}
    (workdir / ".lock").write_text(json.dumps(left))  # which nobody has locked
    found = status.read(workdir)
    assert found.holders == [] and found.next == continued(workdir)
    (workdir / ".lock").write_text(json.dumps(left | {"host": "elsewhere"}))
    found = status.read(workdir)
    assert [holder.alive for holder in found.holders] == [None]
    assert found.next == continued(workdir)
    assert cli.main(["status", str(workdir)]) == 0
    assert "; whether it still runs can be seen on that machine only" in capsys.readouterr().out


def test_a_workdir_in_which_nothing_is_written_yet(tmp_path):
    with artifacts.claim(tmp_path / "new"):
        found = status.read(tmp_path / "new")
        assert set(states(found).values()) == {"missing"} and found.holders[0].alive
        assert found.contents.task is None


def test_folders_that_are_no_workdirs(workdir, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for folder, said in (
        (tmp_path / "empty", "is no workdir of vdu, for no stage has begun there; name the"),
        (tmp_path / "nowhere", "no such folder; name the --workdir of a run"),
        (tmp_path / "file", "is no workdir of vdu"),
        (
            workdir / "unlearn",
            f"is no workdir of vdu, for no stage has begun there; did you mean {workdir}?",
        ),
    ):
        assert cli.main(["status", str(folder)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"vdu: error: WORKDIR {folder}: ") and said in line
        with pytest.raises(UserError):
            status.read(folder)


def make_benchmark(finished_run, root):
    """A benchmark's workdir of two seeds with a cell of each, as its stages leave it."""
    for seed in (0, 4):
        shutil.copytree(finished_run / "train", root / f"seed-{seed}" / "train")
        for stage in ("replay", "unlearn", "evaluate"):
            shutil.copytree(finished_run / stage, root / f"seed-{seed}" / "class-8" / stage)
    (root / "seed-4" / "class-8" / "evaluate" / "plain" / "done.json").unlink()
    (root / "tuning" / "plain").mkdir(parents=True)
    (root / "tuning" / "plain" / "inputs.json").write_text("{}")


def test_a_benchmark_counts_its_cells(finished_run, tmp_path, capsys):
    root = tmp_path / "compared"
    make_benchmark(finished_run, root)
    found = status.read_benchmark(root)
    assert found.cells == {
        "extended": {0: [1, 1], 4: [1, 1]}, "plain": {0: [1, 1], 4: [0, 1]},
    }  # fmt: skip
    assert not found.planned and found.tuned == {"plain": False}
    assert [(part.name, part.state) for part in found.models] == [
        ("seed-0", "done"), ("seed-4", "done"),
    ]  # fmt: skip
    assert found.next == f"vdu benchmark --config=FILE --workdir={root}"
    assert cli.main(["status", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        f"{root}: benchmark, unconditional model (dit) of digits, to forget class 8"
    )
    said = "3 of 4 that have begun; the config says how many there are"
    assert f"cells         begun       {said}" in lines
    # The cells that are to be made, and those of published results.
    planned = [
        f"{method}/{c}/{s}" for method in ("extended", "plain") for c in (7, 8) for s in (0, 4)
    ]
    (root / "cells.json").write_text(json.dumps({"cells": planned}))
    summary = {"retrain": {"pul": {"mean": 99.0}, "u_fid": {"mean": 2.5}}}
    published = {"cells": {"original/8/0": {}, "retrain/8/0": {}}, "summary": summary}
    (root / "results.json").write_text(json.dumps(published))
    found = status.read_benchmark(root)
    assert found.cells == {
        "extended": {0: [1, 2], 4: [1, 2]}, "plain": {0: [1, 2], 4: [0, 2]}, "retrain": {0: [1, 1]},
    }  # fmt: skip
    assert found.planned and found.figures == {"retrain": {"pul": 99.0, "u_fid": 2.5}}
    assert cli.main(["status", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "cells         begun       4 of 9" in lines
    assert "cells done      seed 0    seed 4" in lines
    assert "plain           1 of 2    0 of 2" in lines
    assert "retrain         1 of 1         –" in lines
    assert cli.main(["status", "--json", str(root)]) == 0
    read = json.loads(capsys.readouterr().out)
    assert read["kind"] == "benchmark" and read["cells"]["plain"] == {"0": [1, 2], "4": [0, 2]}


def test_a_benchmark_that_is_over_and_one_that_is_at_work(finished_run, tmp_path):
    root = tmp_path / "compared"
    make_benchmark(finished_run, root)
    cells = {f"{method}/8/{seed}": {} for method in ("plain", "extended") for seed in (0, 4)}
    (root / "results.json").write_text(json.dumps({"cells": cells}))
    assert status.read_benchmark(root).next is None
    (root / "cells.json").write_text(json.dumps({"cells": [*cells, "plain/7/0"]}))
    assert status.read_benchmark(root).next == f"vdu benchmark --config=FILE --workdir={root}"
    with artifacts.lock(root / "locks" / "cells,plain,7,0"):
        found = status.read_benchmark(root)
        assert [(holder.at, holder.alive) for holder in found.holders] == [
            ("cells/plain/7/0", True)
        ]
        assert found.next is None
    (root / "cells.json").write_text(json.dumps({"cells": ["plain/red/0", "plain/dark-blue/0"]}))
    (root / "results.json").unlink()
    said = "unconditional model (dit) of digits, to forget each of dark-blue, red"
    assert status._subject(status.read_benchmark(root).contents) == said
    # A cell's own workdir belongs to the benchmark.
    found = status.read(root / "seed-4" / "class-8")
    assert found.next == f"vdu benchmark --config=FILE --workdir={root}"
    assert states(found)["evaluate/plain"] == "begun"


def test_the_guide_shows_what_is_printed(capsys):
    """The example of docs/guides/following_a_run.md, character by character."""
    page = (ROOT / "docs" / "guides" / "following_a_run.md").read_text()
    (example,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    settings = {"train.steps": 600, "sampler.steps": 10}
    contents = status.Contents(
        "unconditional", "digits", "unet", {"classes": [3]}, [str(i) for i in range(10)], settings
    )

    def missing(stage):
        models = ("original", "extended", "plain")
        return [status.Part(f"{stage}/{model}", "missing") for model in models]

    stages = {
        "train": [status.Part("train", "done", steps=600, seconds=183.4)],
        "posterior": [status.Part("posterior", "done", seconds=3.5)],
        "replay": [status.Part("replay", "done", seconds=11.8)],
        "unlearn": [
            status.Part("unlearn/extended", "begun", step=20, steps=60),
            status.Part("unlearn/plain", "done", steps=30, seconds=17.9),
        ],
        "samples": missing("samples"),
        "evaluate": missing("evaluate"),
        "report": [status.Part("report", "missing")],
    }
    methods = {"plain": {"objective": "vdu", "kept_step": 30, "steps": 30}}
    command = status._next_command(Path("runs/digits"), stages, [])
    status.show(
        status.Status("runs/digits", contents, stages, methods, {}, [], 91_200_000, command)
    )
    assert capsys.readouterr().out == example
