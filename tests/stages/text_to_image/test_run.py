"""The stages of feature unlearning together, on a run of a few steps."""

import json


def test_every_stage_is_done(text_run):
    names = ("train", "posterior", "replay", "unlearn/vdu", "unlearn/esd_x", "evaluate/original")
    for name in (*names, "evaluate/vdu", "report", "classifier", "latents/forget"):
        assert json.loads((text_run / name / "done.json").read_text())["fingerprint"]
