"""The formats of source files: one file each, whose `FORMAT` says how such files are recognised, cut and read."""
