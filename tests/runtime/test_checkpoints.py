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


def damaged(directory, how):
    """Damage the step's largest file of "params"."""
    folder = directory / "00000003" / "params"
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


def test_the_newest_whole_step(tmp_path, capsys):
    with Store(tmp_path) as store:
        assert store.newest_whole() is None
        for step in (3, 5, 9):
            store.save(step, {"params": TREE})
        store.wait()
        file = next((tmp_path / "00000009").rglob("manifest.ocdbt"))
        file.unlink()
        assert store.newest_whole() == 5 and store.steps() == [3, 5]
    assert f"{file} is missing" in capsys.readouterr().err


def test_files_are_checked_once(directory, monkeypatch):
    """Those of the step found whole are not read for their checksums again when it is restored."""
    read, real = [], checkpoints.checksum
    monkeypatch.setattr(checkpoints, "checksum", lambda path: read.append(path) or real(path))
    with Store(directory) as store:
        assert store.newest_whole() == 3 and read
        store.restore(3, "params", abstract(TREE))
    with Store(directory, read_only=True) as store:
        list(store.restore_parts([3], "params", abstract(TREE), 2))
    of_params = [path for path in read if path.is_relative_to(directory / "00000003" / "params")]
    assert len(of_params) == 2 * len(set(of_params))


def test_checksums_go_with_their_step(tmp_path):
    with Store(tmp_path, keep=1) as store:
        for step in range(3):
            store.save(step, {"params": TREE})
    assert [p.name for p in tmp_path.glob("*.sums.json")] == ["00000002.sums.json"]
