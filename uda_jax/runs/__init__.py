"""A run on disk and in time: the loop, recipes of stages, the workdir, checkpoints, first weights."""
