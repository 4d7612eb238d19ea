"""What a run needs around a method: optimisers, schedules, metrics, precision, sharding, checkpoints, logging."""
