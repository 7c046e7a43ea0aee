#!/usr/bin/env bash
# Trains on a TPU slice of Google Cloud: creates the slice, trains, and fetches the logs.
#
#   bash launch/tpu_vm.sh --name=echo --type=v5litepod-64 --zone=us-west4-a \
#       --config=configs/vit_l.py --workdir=gs://bucket/run [--config.optim.global_batch=1024 ...]
#
# Steps (--do=all by default, or some of them: --do=create,setup,run,logs,delete):
#   create   request the slice: a queued resource, with --spot a cheaper one that can be preempted
#   setup    copy this checkout to every worker and install it
#   run      start or continue training on every worker, and follow the log
#   logs     copy each worker's log to logs/NAME
#   delete   delete the slice
# Other flags: --project, --version (of the TPU's software), --dry_run (print every command).
# All remaining flags go to the program. If a spot slice was preempted, delete it with --do=delete and
# run the same command again: training continues from the bucket. Every worker must find the videos
# under the same path, on a mounted disk or bucket (gcsfuse).
set -euo pipefail
cd "$(dirname "$0")/.."

name="" type="" zone=us-west4-a project="" version="" spot="" dry="" workdir="" failed=""
steps=create,setup,run,logs,delete
program=()
for word in "$@"; do
  case $word in
    --name=*) name=${word#*=} ;;
    --type=*) type=${word#*=} ;;
    --zone=*) zone=${word#*=} ;;
    --project=*) project=${word#*=} ;;
    --version=*) version=${word#*=} ;;
    --do=*) steps=${word#*=} ;;
    --spot) spot=1 ;;
    --dry_run) dry=1 ;;
    --help | -h)
      sed -n '2,18s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    --workdir=*)
      workdir=${word#*=}
      program+=("$word")
      ;;
    *) program+=("$word") ;;
  esac
done

fail() {
  echo "error: $1; see --help" >&2
  exit 1
}
[[ -n $name && -n $type ]] || fail "--name and --type must be given"
[[ $steps == all ]] && steps=create,setup,run,logs,delete
for step in ${steps//,/ }; do
  [[ $step =~ ^(create|setup|run|logs|delete)$ ]] || fail "--do=$step is not a step"
done
if [[ -z $version ]]; then  # of the software on the machine, which depends on the kind of TPU
  case $type in
    v5litepod-* | v5lite*) version=v2-alpha-tpuv5-lite ;;
    v5p-*) version=v2-alpha-tpuv5 ;;
    v6e-*) version=v2-alpha-tpuv6e ;;
    *) version="tpu-ubuntu2204-base" ;;
  esac
fi
wants() { [[ ",$steps," == *",$1,"* ]]; }
if wants run; then
  [[ $workdir == gs://* || $workdir == s3://* ]] ||
    fail "--workdir must be in a bucket (gs://... or s3://...): the workers do not share a disk"
fi

do_it() {
  if [[ -n $dry ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}
tpu=(gcloud compute tpus)
where=(--zone="$zone")
[[ -n $project ]] && where+=(--project="$project")
everywhere() { do_it "${tpu[@]}" tpu-vm ssh "$name" "${where[@]}" --worker=all --command="$1"; }

# Whether a program that was started before is still running on a worker.
# shellcheck disable=SC2016  # the worker expands it
running='[ -s ~/train.pid ] && grep -qa echojepa_jax.main /proc/$(cat ~/train.pid)/cmdline 2> /dev/null'

if wants create; then
  ask=(--node-id="$name" --accelerator-type="$type" --runtime-version="$version")
  [[ -n $spot ]] && ask+=(--spot)
  do_it "${tpu[@]}" queued-resources create "$name" "${where[@]}" "${ask[@]}"
  ask_state=("${tpu[@]}" queued-resources describe "$name" "${where[@]}" --format='value(state.state)')
  if [[ -n $dry ]]; then
    do_it "${ask_state[@]}" # every 30 seconds, until it prints ACTIVE
  else
    echo "waiting for the slice (you can stop with Ctrl-C, and use --do=setup,run,logs,delete later)"
    while state=$("${ask_state[@]}") && [[ $state != ACTIVE ]]; do
      [[ $state =~ FAILED|SUSPENDED ]] && fail "the slice is $state: use --do=delete, and request it again"
      sleep 30
    done
  fi
fi

if wants setup; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  archive=$folder/code.tar.gz
  do_it git archive --format=tar.gz --output="$archive" HEAD
  do_it "${tpu[@]}" tpu-vm scp "$archive" "$name:code.tar.gz" "${where[@]}" --worker=all
  everywhere "if $running; then echo 'error: training is still running: use --do=run to follow it' >&2; exit 1; fi"'
rm -rf code && mkdir code && tar -xzf code.tar.gz -C code && cd code &&
{ [ -x ~/venv/bin/pip ] || python3.11 -m venv --clear ~/venv ||
{ pip install -q uv && python3 -m uv venv -q --clear --seed --python=3.11 ~/venv; }; } &&
. ~/venv/bin/activate &&
pip install -q -e ".[tpu,buckets]"'
fi

if wants run; then
  quoted=$(printf '%q ' "${program[@]}")
  # --hosts=-1: the workers find each other through the metadata of the slice.
  # If the connection breaks, training continues there, and the same command follows it again.
  everywhere "cd code && . ~/venv/bin/activate || exit 1
if $running; then
echo 'training is still running: following it'
else
rm -f ~/train.code; echo '--- started' >> ~/train.log
(trap '' HUP; python -m echojepa_jax.main --hosts=-1 $quoted; echo \$? > ~/train.code
) < /dev/null >> ~/train.log 2>&1 & echo \$! > ~/train.pid
fi
tail -n +1 -f --pid=\$(cat ~/train.pid) ~/train.log
exit \$(cat ~/train.code || echo 1)" || failed=1
fi

if wants logs; then
  do_it mkdir -p "logs/$name"
  # The first worker logs for all. One that fails before they are connected logs the reason itself.
  do_it "${tpu[@]}" tpu-vm scp "$name:train.log" "logs/$name/" "${where[@]}" --worker=0 || true
  # shellcheck disable=SC2016  # the workers expand it
  [[ -z $failed ]] || everywhere 'echo "--- $(hostname)"; tail -n 50 ~/train.log' || true
  # Other lines can follow the program's last line.
  if [[ -z $dry ]] && awk '/^--- started/ { stopped = 0 } /^stopped by a signal/ { stopped = 1 }
    END { exit !stopped }' "logs/$name/train.log"; then
    echo "error: training was stopped and has saved, and the slice is kept: use" \
      "--do=run,logs,delete to continue" >&2
    exit 1
  fi
fi

if [[ -n $failed ]]; then
  echo "error: training failed or the connection broke, and the slice is kept: look at" \
    "logs/$name, then use --do=run,logs,delete to follow training or to start it again, or" \
    "--do=delete to delete the slice" >&2
  exit 1
fi
if wants delete; then
  do_it "${tpu[@]}" queued-resources delete "$name" "${where[@]}" --force --quiet
fi
