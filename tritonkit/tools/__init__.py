"""The programs that tritonkit drives: where they are, how they are installed, how they are run."""
