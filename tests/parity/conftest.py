"""Without PyTorch its tests are not collected, so `pytest -m torch` finds none and fails (5)."""

import importlib.util

collect_ignore = [] if importlib.util.find_spec("torch") else ["test_live.py"]
