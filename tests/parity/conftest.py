"""Without PyTorch its tests are not collected, so `pytest -m torch` finds none and fails (5)."""

import importlib.util

WITH_TORCH = ["test_live.py", "test_pipeline.py"]

collect_ignore = [] if importlib.util.find_spec("torch") else WITH_TORCH
