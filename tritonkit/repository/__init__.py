"""The files of a model repository: planned from a spec, compared with the disk, written as one change."""
