"""`uda check`: decodes all of a data set and reports what is wrong with it."""
