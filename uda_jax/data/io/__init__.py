"""Files in and out: archives, images, depth, MATLAB files, atomic writes. Nothing here knows a data set."""
