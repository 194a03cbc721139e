"""Files, checkpoints, devices, processes and the fit loop, on which the stages are built."""
