#!/bin/sh
# The MPS control daemon of one GPU, in the foreground. Its clients tell by the stamp that it is still the same one.
set -eu
mkdir -p "$CUDA_MPS_PIPE_DIRECTORY" "$CUDA_MPS_LOG_DIRECTORY"
date +%s.%N > "$CUDA_MPS_PIPE_DIRECTORY/started"
exec "$@"
