#!/bin/sh
# A client of the MPS daemon in CUDA_MPS_PIPE_DIRECTORY. Without it a client runs without limits and without a word, and
# one whose daemon has ended answers no request any more. So it starts when the daemon answers, and ends with it; the
# container is then started again.
stamp() { cat "$CUDA_MPS_PIPE_DIRECTORY/started" 2>/dev/null; }
answers() {
  echo get_default_active_thread_percentage | timeout 5 nvidia-cuda-mps-control 2>/dev/null | grep -Eq '^[0-9]+(\.[0-9]+)?$'
}
until answers; do
  echo "waiting for the MPS daemon in $CUDA_MPS_PIPE_DIRECTORY" >&2
  sleep 1
done
daemon=$(stamp)
"$@" &
client=$!
trap 'kill -TERM "$client" 2>/dev/null' TERM INT
while kill -0 "$client" 2>/dev/null; do
  if [ "$(stamp)" != "$daemon" ] || ! answers; then
    echo "the MPS daemon has ended or is another one: this client ends, to be started again" >&2
    kill -KILL "$client" 2>/dev/null
    wait "$client"
    exit 1
  fi
  sleep 1 &
  wait "$!"
done
wait "$client"
