"""`uda prepare`: a data set as ArrayRecord shards in TFDS' format, and their reader."""
