#!/bin/sh
# A client of the MPS daemon in CUDA_MPS_PIPE_DIRECTORY. Without it a client runs without limits and without a word, and
# one whose daemon has ended answers no request any more. So it starts when the daemon answers, and ends with it; the
# container is then started again. A daemon that a busy machine keeps from answering has not ended.
stamp() { cat "$CUDA_MPS_PIPE_DIRECTORY/started" 2>/dev/null; }
# 0 when the daemon answers, 124 when it says nothing in 5 s, else 1: there is none.
ask() {
  said=$(echo get_default_active_thread_percentage | timeout 5 nvidia-cuda-mps-control 2>/dev/null)
  [ "$?" -ne 124 ] || return 124
  echo "$said" | grep -Eq '^[0-9]+(\.[0-9]+)?$'
}
until ask; do
  echo "waiting for the MPS daemon in $CUDA_MPS_PIPE_DIRECTORY" >&2
  sleep 1
done
daemon=$(stamp)
"$@" &
client=$!
trap 'kill -TERM "$client" 2>/dev/null' TERM INT
silent=0
while kill -0 "$client" 2>/dev/null; do
  ask
  case $? in
    0) silent=0 ;;
    124) silent=$((silent + 1)) ;;
    *) silent=12 ;;
  esac
  if [ "$(stamp)" != "$daemon" ] || [ "$silent" -ge 12 ]; then
    echo "the MPS daemon has ended or is another one: this client ends, to be started again" >&2
    kill -KILL "$client" 2>/dev/null
    wait "$client"
    exit 1
  fi
  sleep 1 &
  wait "$!"
done
wait "$client"
