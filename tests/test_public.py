"""The names of `import vdu_jax`, and the README's example of them, word for word."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import vdu_jax

README = Path(__file__).parents[1] / "README.md"


def test_importing_the_package_imports_nothing_else():
    code = "import sys, vdu_jax; print({'jax', 'numpy', 'orbax', 'flax'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_public_name_is_there_and_described():
    for name in set(vdu_jax.__all__) - {"__version__"}:
        assert getattr(vdu_jax, name).__doc__, name
    assert set(vdu_jax.__all__) <= set(dir(vdu_jax))
    with pytest.raises(AttributeError, match="no attribute 'unlearn_everything'"):
        vdu_jax.unlearn_everything  # noqa: B018


def test_the_readme_s_example_runs_word_for_word():
    (code,) = re.findall(r"```python\n(import jax\n.*?)```", README.read_text(), re.S)
    names = {}
    exec(code, names)
    drawn, checkpoints = np.asarray(names["drawn"]), names["checkpoints"]
    assert drawn.shape == (4, 8, 8, 1) and np.abs(drawn).max() <= 1 and drawn.std() > 0.1
    assert len(checkpoints) == 4

    def check(mean, variance, unlearned, *of_checkpoints):
        of_checkpoints = np.stack(of_checkpoints)
        np.testing.assert_allclose(mean, of_checkpoints.mean(0), rtol=1e-4, atol=1e-6)
        expected = np.maximum(of_checkpoints.var(0, ddof=1), 1e-8)
        np.testing.assert_allclose(variance, expected, rtol=1e-2, atol=1e-9)
        moved = np.abs(unlearned - of_checkpoints[-1])  # three steps of Adam
        assert 0 < moved.max() < 4e-5

    posterior = names["posterior"]
    jax.tree.map(check, posterior.mean, posterior.variance, names["unlearned"], *checkpoints)
