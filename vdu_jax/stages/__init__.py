"""The stages: train, posterior, replay, unlearn, sample, evaluate, relearn, report, and others.

Each stage is `run(config, workdir, overwrite=False)`. It reads the folders of earlier stages and
writes its own, or does nothing if that is finished for the same settings.
"""
