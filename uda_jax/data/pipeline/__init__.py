"""From opened data sets to batches: domains, views, transforms, examples, streams."""
