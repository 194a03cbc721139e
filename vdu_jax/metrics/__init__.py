"""Metrics of unlearning as pure functions of arrays: forgetting, and image quality after it."""
