"""What the config files share: benchmarks, networks and schedules."""
