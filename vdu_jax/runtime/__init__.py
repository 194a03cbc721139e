"""The effectful shell under the stages: files, devices, checkpoints, the fit loop."""
