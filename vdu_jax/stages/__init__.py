"""The stages, each `run(config, workdir, overwrite=False)`, in the order of the data's way."""
