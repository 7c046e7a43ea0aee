#!/usr/bin/env bash
# Trains on this machine: with all its devices in one process, or with several simulated hosts.
#
#   bash launch/local.sh --config=configs/demo.py --workdir=runs/demo
#   HOSTS=2 bash launch/local.sh --config=configs/demo.py --workdir=runs/two   # two processes
#
# With HOSTS, every process has DEVICES (4) simulated CPU devices: a rehearsal of a job on several
# machines with the same program and the same files. --dry_run (or DRY_RUN=1) prints the commands.
set -euo pipefail
cd "$(dirname "$0")/.."

hosts=${HOSTS:-1}
if [[ $# -eq 0 || $1 == --help || $1 == -h ]]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0"
  exit $(($# == 0 ? 2 : 0))
fi
arguments=()
for word in "$@"; do
  if [[ $word == --dry_run ]]; then DRY_RUN=1; else arguments+=("$word"); fi
done
set -- "${arguments[@]}"
print_command() {
  printf '%q ' "$@"
  echo
}

if [[ $hosts -eq 1 ]]; then
  command=(python -m echojepa_jax.main "$@")
  if [[ -n ${DRY_RUN:-} ]]; then
    print_command "${command[@]}"
    exit
  fi
  # exec replaces this script, so that signals reach the program.
  exec "${command[@]}"
fi

port=${PORT:-$((20000 + RANDOM % 20000))}
export JAX_PLATFORMS=cpu
export XLA_FLAGS="--xla_force_host_platform_device_count=${DEVICES:-4} ${XLA_FLAGS:-}"
processes=()
for ((host = 0; host < hosts; host++)); do
  command=(
    python -m echojepa_jax.main "$@"
    --hosts="$hosts" --host="$host" --coordinator="127.0.0.1:$port"
  )
  if [[ -n ${DRY_RUN:-} ]]; then
    print_command "${command[@]}"
  else
    "${command[@]}" &
    processes+=($!)
  fi
done
[[ -z ${DRY_RUN:-} ]] || exit 0
# A signal to this script goes to all hosts: they save, and end together.
trap 'kill -TERM "${processes[@]}" 2>/dev/null' TERM INT
status=0
for process in "${processes[@]}"; do
  # A trapped signal ends `wait` early: ask again for the process's own status.
  while kill -0 "$process" 2>/dev/null; do wait "$process" || true; done
  wait "$process" || status=$?
done
exit "$status"
