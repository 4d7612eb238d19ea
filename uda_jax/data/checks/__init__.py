"""`uda check`: decodes all of a data set and tells what is wrong with it."""
