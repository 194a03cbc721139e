import json

from vdu_jax.runtime.scalars import ScalarWriter


def test_lines_after_the_resumed_step_and_half_lines_are_dropped(tmp_path):
    writer = ScalarWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write(step, {"loss": float(step)})
    writer.close()
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 4, "lo')
    writer = ScalarWriter(tmp_path, resume_step=2)
    writer.write(3, {"loss": 30.0})
    writer.close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["step"], r["loss"]) for r in rows] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert list((tmp_path / "events").iterdir())
