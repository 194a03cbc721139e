import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax.errors import UserError
from vdu_jax.runtime import checkpoints
from vdu_jax.runtime.checkpoints import Store, abstract

TREE = {"a": {"kernel": jnp.arange(6.0).reshape(2, 3)}, "b": jnp.float32(1.5)}


@pytest.fixture
def directory(tmp_path):
    with Store(tmp_path / "c") as store:
        store.save(3, {"params": TREE}, {"loop": {"n": 1}})
        store.wait()
    return tmp_path / "c"


def test_round_trip(directory):
    with Store(directory, read_only=True) as store:
        back = store.restore(3, "params", abstract(TREE))
        assert store.steps() == [3] and store.restore_json(3, "loop") == {"n": 1}
    np.testing.assert_array_equal(back["a"]["kernel"], TREE["a"]["kernel"])


def test_steps_in_parts(tmp_path):
    def tree(step):
        return {f"t{i}": jnp.full((i + 1, 2), step + i / 10) for i in range(6)}

    with Store(tmp_path) as store:
        for step in (1, 2):
            store.save(step, {"params": tree(step)})
    like = abstract(tree(0))
    assert [len(jax.tree.leaves(part)) for part in checkpoints.parts(like, 3)] == [3, 2, 1]
    with Store(tmp_path, read_only=True) as store:
        rows = list(store.restore_parts([2, 1], "params", like, 3))
        with pytest.raises(UserError, match="t2 is .* absent in"):
            next(store.restore_parts([1], "params", {k: like[k] for k in ("t0", "t1")}, 3))
    assert [index for index, _ in rows] == [0, 1, 2, 0, 1, 2]
    for step, some in ((2, rows[:3]), (1, rows[3:])):
        found = checkpoints.whole([part for _, part in some])
        jax.tree.map(np.testing.assert_array_equal, found, tree(step))


@pytest.mark.parametrize(
    ("like", "said"),
    [
        ({"a": {"kernel": jnp.zeros((2, 4))}, "b": jnp.zeros(())}, r"a/kernel is \(2, 3\) there"),
        ({"a": {"kernel": jnp.zeros((2, 3))}}, r"b is \(\) there and absent"),
        (TREE | {"c": jnp.zeros(1)}, "c is absent there"),
    ],
)
def test_another_network_is_refused_with_the_tensor_named(directory, like, said):
    with Store(directory, read_only=True) as store, pytest.raises(UserError, match=said):
        store.restore(3, "params", abstract(like))


def test_a_missing_step_and_a_missing_folder(directory, tmp_path):
    with Store(directory, read_only=True) as store, pytest.raises(UserError, match="step 4"):
        store.restore(4, "params", abstract(TREE))
    with pytest.raises(UserError, match="no checkpoints at"):
        Store(tmp_path / "nothing", read_only=True)


def test_damage_is_reported(directory):
    for file in directory.rglob("*"):
        if file.is_file() and "/d/" in str(file):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with Store(directory, read_only=True) as store, pytest.raises(UserError, match="damaged"):
        store.restore(3, "params", abstract(TREE))


def test_only_the_newest_are_kept(tmp_path):
    with Store(tmp_path, keep=2) as store:
        for step in range(4):
            store.save(step, {"params": TREE})
        store.wait()
        assert store.steps() == [2, 3]


def damaged(directory, how, step="00000003"):
    """Damage the step's largest file of "params"."""
    folder = directory / step / "params"
    file = max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    if how == "deleted":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(content[:-7])
    else:
        content[len(content) // 3] ^= 4
        file.write_bytes(bytes(content))
    return file


@pytest.mark.parametrize("how", ["deleted", "truncated", "a bit flipped"])
def test_every_damage_is_found_and_the_file_named(directory, how):
    file = damaged(directory, how)
    with Store(directory, read_only=True) as store:
        with pytest.raises(UserError) as caught:
            store.restore(3, "params", abstract(TREE))
        assert str(file) in str(caught.value) and "\n" not in str(caught.value)
        assert store.damage(3, "loop") is None
        assert store.restore_json(3, "loop") == {"n": 1}


def test_a_damaged_step_is_saved_again(directory):
    damaged(directory, "a bit flipped")
    with Store(directory) as store:
        store.save(3, {"params": TREE}, {"loop": {"n": 2}})
        store.wait()
        assert store.damage(3) is None and store.restore_json(3, "loop") == {"n": 2}
        store.save(3, {"params": TREE}, {"loop": {"n": 3}})  # whole: left as it is
        assert store.restore_json(3, "loop") == {"n": 2}


LIKE = {"params": abstract(TREE)}


def step_folder(directory, step):
    return directory / f"{step:08d}"


def lose(folder, *names):
    """Delete files of a step, and its checksums."""
    folder.with_name(f"{folder.name}.sums.json").unlink()
    for name in names:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def empty(folder, name):
    lose(folder)
    (folder / name).write_bytes(b"")


def replace_by_a_file(folder):
    lose(folder, ".")
    folder.write_text("mine")


DAMAGES = {
    "no metadata and no checksums": lambda f: lose(f, "params/_METADATA"),
    "no manifest": lambda f: (f / "params" / "manifest.ocdbt").unlink(),
    "no manifest and no checksums": lambda f: lose(f, "params/manifest.ocdbt"),
    "a truncated file": lambda f: damaged(f.parent, "truncated", f.name),
    "a bit flipped": lambda f: damaged(f.parent, "a bit flipped", f.name),
    "an empty file": lambda f: empty(f, "params/_METADATA"),
    "no arrays": lambda f: lose(f, "params"),
    "no JSON": lambda f: lose(f, "loop/metadata"),
    "empty JSON": lambda f: empty(f, "loop/metadata"),
    "an empty folder": lambda f: (lose(f, "."), f.mkdir()),
    "half of the checksums": lambda f: f.with_name(f"{f.name}.sums.json").write_text("{"),
    "other checksums": lambda f: f.with_name(f"{f.name}.sums.json").write_text("[1]"),
}


@pytest.fixture
def steps(tmp_path):
    """A folder with steps 3 and 5; the JSON item says which."""
    with Store(tmp_path / "stage" / "state", keep=2) as store:
        for step in (3, 5):
            store.save(step, {"params": TREE}, {"loop": {"n": step}})
    return tmp_path / "stage" / "state"


@pytest.mark.parametrize("how", DAMAGES)
def test_the_newest_whole_step_is_restored_and_damaged_ones_are_named(steps, capsys, how):
    DAMAGES[how](step_folder(steps, 5))
    with Store(steps, keep=2) as store:
        step, items = store.restore_newest(LIKE, ["loop"])
        assert step == 3 and items["loop"] == {"n": 3} and store.steps() == [3]
        jax.tree.map(np.testing.assert_array_equal, items["params"], TREE)
        (line,) = (x for x in capsys.readouterr().err.splitlines() if x.startswith("vdu:"))
        assert f"{steps}" in line and "5" in line and line.endswith("; going on from step 3")
        store.save(5, {"params": TREE}, {"loop": {"n": 5}})
        store.wait()
        assert store.restore_newest(LIKE, ["loop"])[0] == 5


def test_a_file_in_place_of_a_step_is_no_step(steps):
    replace_by_a_file(step_folder(steps, 5))
    with Store(steps, keep=2) as store:
        assert store.restore_newest(LIKE, ["loop"])[0] == 3
        store.save(5, {"params": TREE}, {"loop": {"n": 5}})
        store.wait()
        assert store.restore_newest(LIKE, ["loop"])[0] == 5


def test_if_no_step_is_whole_none_is_deleted(steps):
    DAMAGES["no manifest"](step_folder(steps, 3))
    DAMAGES["no metadata and no checksums"](step_folder(steps, 5))
    with Store(steps, keep=2) as store:
        said = f"step 5 .params. is missing or damaged, and so is every older step in {steps}.*"
        with pytest.raises(UserError, match=f"{said}or delete {steps.parent} to start from step 0"):
            store.restore_newest(LIKE, ["loop"])
        assert store.steps() == [3, 5]


def test_nothing_saved_is_no_step(tmp_path):
    with Store(tmp_path) as store:
        assert store.restore_newest(LIKE) is None


def test_a_step_of_another_network_is_not_passed_over(steps):
    with Store(steps, keep=2) as store:
        with pytest.raises(UserError, match="belongs to another network: b is"):
            store.restore_newest({"params": abstract({"a": TREE["a"]})})
        assert store.steps() == [3, 5]


def test_what_is_of_no_use_is_passed_over(steps):
    def check(step, items):
        if items["loop"]["n"] == 5:
            raise checkpoints.Damaged("5 is of no use", steps)

    with Store(steps, keep=2) as store:
        assert store.restore_newest(LIKE, ["loop"], check)[0] == 3


def test_a_step_without_checksums_is_saved_again(directory):
    lose(directory / "00000003", "params/_METADATA")
    with Store(directory) as store:
        store.wait()
        assert not (directory / "00000003.sums.json").exists()  # it has not been read
        store.save(3, {"params": TREE}, {"loop": {"n": 2}})
        store.wait()
        jax.tree.map(
            np.testing.assert_array_equal, store.restore(3, "params", LIKE["params"]), TREE
        )


def test_files_are_checked_once(directory, monkeypatch):
    """Those of the step found whole are not read for their checksums again when it is restored."""
    read, real = [], checkpoints.checksum
    monkeypatch.setattr(checkpoints, "checksum", lambda path: read.append(path) or real(path))
    with Store(directory) as store:
        assert store.restore_newest(LIKE)[0] == 3
    assert len(read) == len(set(read)) > 0
    read.clear()
    with Store(directory, read_only=True) as store:
        list(store.restore_parts([3], "params", abstract(TREE), 2))
    assert len(read) == len(set(read)) > 0


def test_checksums_go_with_their_step(tmp_path):
    with Store(tmp_path, keep=1) as store:
        for step in range(3):
            store.save(step, {"params": TREE})
    assert [p.name for p in tmp_path.glob("*.sums.json")] == ["00000002.sums.json"]
