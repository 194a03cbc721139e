"""The visit to an accelerator, rehearsed: the whole command at sizes of seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "accelerator.py"
PARTS = ("check", "network", "steps", "posterior", "train", "generate")


def visit(out, *flags):
    command = [sys.executable, str(SCRIPT), f"--out={out}", *flags]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    out = tmp_path_factory.mktemp("visit")
    done = visit(out, "--rehearse", "--minutes=30")
    assert done.returncode == 0, done.stderr + (out / "accelerator.md").read_text()
    return {part: json.loads((out / f"{part}.json").read_text()) for part in PARTS}, out


def test_every_part_comes_to_its_end(rehearsal):
    figures, out = rehearsal
    assert {part: of["ended"] for part, of in figures.items()} == dict.fromkeys(PARTS, "whole")
    page = (out / "accelerator.md").read_text()
    assert page.count("\n## ") == len(PARTS)
    assert "cpu" in page and "None" not in page and "nan" not in page
    for of in figures.values():  # which device and versions, beside each figure
        assert of["about"]["versions"]["jax"] and of["about"]["date"]


def test_what_is_left_is_little(rehearsal):
    _, out = rehearsal
    left = [path for path in out.rglob("*") if path.is_file()]
    assert len(left) <= 8
    assert all(path.stat().st_size < 2**24 for path in left)


def test_each_part_has_its_figures(rehearsal):
    of, out = rehearsal
    assert {row["precision"] for row in of["check"]["results"]} == {"float32", "tf32", "bfloat16"}
    assert {row["verdict"] for row in of["check"]["results"]} == {"ok"}
    calls = [row for row in of["network"]["calls"] if row["side"] == "ours"]
    tuned = {(row["dtype"], row["what"]) for row in calls if row["tuned"]}
    assert len(tuned) == 3 and len(calls) == 6
    for row in of["network"]["calls"]:
        assert row["images_per_second"] == pytest.approx(row["images"] / row["seconds"])
    steps = {row["step"]: row for row in of["steps"]["steps"]}
    assert {"vdu", "vdu_extended", "demixing"} < steps.keys()
    assert steps["DDPM training"]["times_training"] == 1
    assert all(row["memory"] > 0 and row["flops"] > 0 for row in steps.values())
    # As many images in all, and the original's prediction for half of them.
    assert 1.1 < steps["vdu_extended"]["flops"] / steps["vdu"]["flops"] < 1.5
    assert of["posterior"]["checkpoints"] == 3
    assert set(of["train"]["metrics"]["models"]) == {"original", "vdu", "vdu_extended", "demixing"}
    with Image.open(out / "grids.png") as grid:
        assert grid.size[0] > 20 * 32 and grid.size[1] > 4 * 32  # four rows of twenty
    assert of["generate"]["draws"][0]["seconds"] > 0
    step = of["generate"]["vdu_step"]
    assert step["by_xla"] == pytest.approx(step["planned"], rel=0.5)


def test_a_visit_cut_short_leaves_what_it_has(tmp_path):
    done = visit(tmp_path, "--rehearse", "--minutes=0.02", "--parts=check,steps")
    assert done.returncode == 0, done.stderr
    for part in ("check", "steps"):
        assert json.loads((tmp_path / f"{part}.json").read_text())["ended"].startswith("cut")
    assert (tmp_path / "accelerator.md").read_text().count("cut at its limit") == 2


def test_a_part_that_fails_says_so_and_the_others_go_on(tmp_path):
    (tmp_path / "images").mkdir()  # without train/
    done = visit(
        tmp_path / "out", "--rehearse", f"--images={tmp_path / 'images'}", "--parts=train,check"
    )
    assert done.returncode == 1
    train, check = (json.loads((tmp_path / "out" / f"{p}.json").read_text()) for p in PARTS[4::-4])
    assert train["ended"] == "failed (1)" and "train" in "\n".join(train["log"])
    assert check["ended"] == "whole"


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--parts=check,trian"], "trian"), (["--parts=train"], "--images is missing")],
)
def test_a_mistake_is_answered_before_anything_is_measured(tmp_path, flags, said):
    done = visit(tmp_path / "out", *flags)
    assert done.returncode == 2 and said in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "usage:"),
        (["wheels"], "say where"),
        (["run", "--wheels=nowhere", "--out=o"], "--wheels=nowhere"),
        (["run", "--wheels=."], "--out"),
        (["run", "--wheels=.", "--out=o", "--images=nothing.tar"], "--images=nothing.tar"),
    ],
)
def test_the_script_refuses_what_it_cannot_use(tmp_path, arguments, said):
    command = ["bash", str(SCRIPT.with_suffix(".sh")), *arguments]
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 2 and said in done.stderr
