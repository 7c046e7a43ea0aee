#!/usr/bin/env bash
# Trains on a TPU slice of Google Cloud, from nothing to fetched logs.
#
#   bash launch/tpu_vm.sh --name=echo --type=v5litepod-64 --zone=us-west4-a \
#       --config=configs/vit_l.py --workdir=gs://bucket/run [--config.optim.global_batch=1024 ...]
#
# Steps (--do=all by default, or some of them: --do=create,setup,run,logs,delete):
#   create   ask for the slice: a queued resource, with --spot a cheap one that may be taken away
#   setup    copy this checkout to every worker and install it
#   run      start training on every worker, and follow the log; started again, it continues
#   logs     copy each worker's log to logs/NAME
#   delete   give the slice back
# Other flags: --project, --version (of the TPU's software), --dry_run (print every command).
# Whatever is not understood here goes to the program. A spot slice that was taken away is given back
# with --do=delete and had again by the same command: training continues from the bucket. Videos must
# lie where every worker finds them: a mounted disk or bucket (gcsfuse), the same path on all.
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
  [[ $step =~ ^(create|setup|run|logs|delete)$ ]] || fail "--do=$step is no step"
done
if [[ -z $version ]]; then  # of the software on the machine, which differs by kind
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
    fail "--workdir must be in a bucket (gs://... or s3://...): the workers share no disk"
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

# What a worker is asked: does a program that was started before go on?
# shellcheck disable=SC2016  # for the worker to expand
running='[ -s ~/train.pid ] && grep -qa echojepa_jax.main /proc/$(cat ~/train.pid)/cmdline 2> /dev/null'

if wants create; then
  ask=(--node-id="$name" --accelerator-type="$type" --runtime-version="$version")
  [[ -n $spot ]] && ask+=(--spot)
  do_it "${tpu[@]}" queued-resources create "$name" "${where[@]}" "${ask[@]}"
  ask_state=("${tpu[@]}" queued-resources describe "$name" "${where[@]}" --format='value(state.state)')
  if [[ -n $dry ]]; then
    do_it "${ask_state[@]}" # every 30 seconds, until it says ACTIVE
  else
    echo "waiting for the slice (Ctrl-C and --do=setup,run,logs,delete later is fine)"
    while state=$("${ask_state[@]}") && [[ $state != ACTIVE ]]; do
      [[ $state =~ FAILED|SUSPENDED ]] && fail "the slice is $state: --do=delete, and ask again"
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
  everywhere "if $running; then echo 'error: training goes on here: --do=run follows it' >&2; exit 1; fi"'
rm -rf code && mkdir code && tar -xzf code.tar.gz -C code && cd code &&
{ [ -x ~/venv/bin/pip ] || python3.11 -m venv --clear ~/venv ||
{ pip install -q uv && python3 -m uv venv -q --clear --seed --python=3.11 ~/venv; }; } &&
. ~/venv/bin/activate &&
pip install -q -e ".[tpu,buckets]"'
fi

if wants run; then
  quoted=$(printf '%q ' "${program[@]}")
  # --hosts=-1: the workers find each other through the slice's own metadata.
  # A line that breaks does not end training: it goes on there, and the same command follows it.
  everywhere "cd code && . ~/venv/bin/activate || exit 1
if $running; then
echo 'training goes on here: following it'
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
  # Of the first worker, which speaks for all. One that fails before they have met says why to itself.
  do_it "${tpu[@]}" tpu-vm scp "$name:train.log" "logs/$name/" "${where[@]}" --worker=0 || true
  # shellcheck disable=SC2016  # for the workers to expand
  [[ -z $failed ]] || everywhere 'echo "--- $(hostname)"; tail -n 50 ~/train.log' || true
  # Other lines may follow the program's last one.
  if [[ -z $dry ]] && awk '/^--- started/ { stopped = 0 } /^stopped by a signal/ { stopped = 1 }
    END { exit !stopped }' "logs/$name/train.log"; then
    echo "error: training was stopped, and has saved: the slice is kept, --do=run,logs,delete" \
      "continues" >&2
    exit 1
  fi
fi

if [[ -n $failed ]]; then
  echo "error: training has not ended well, or the line to it broke, and the slice is kept: look at" \
    "logs/$name; --do=run,logs,delete follows it if it goes on, and else starts it again;" \
    "--do=delete gives the slice back" >&2
  exit 1
fi
if wants delete; then
  do_it "${tpu[@]}" queued-resources delete "$name" "${where[@]}" --force --quiet
fi
