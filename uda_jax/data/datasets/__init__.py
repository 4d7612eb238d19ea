"""One module per data set; `uda_jax.data.get_dataset` finds them by name, so there is no list to keep."""
