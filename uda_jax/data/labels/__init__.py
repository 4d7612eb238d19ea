"""What label values mean: the data sets' tables of ids and the class protocols."""
