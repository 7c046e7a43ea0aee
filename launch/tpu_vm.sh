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
# Whatever is not understood here goes to the program. A spot slice that was taken away is had again
# by the same command: training continues from the bucket.
set -euo pipefail
cd "$(dirname "$0")/.."

name="" type="" zone=us-west4-a project="" version=v2-alpha-tpuv5-lite spot="" dry="" workdir=""
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
      sed -n '2,16s/^# \{0,1\}//p' "$0"
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

if wants create; then
  ask=(--node-id="$name" --accelerator-type="$type" --runtime-version="$version")
  [[ -n $spot ]] && ask+=(--spot)
  do_it "${tpu[@]}" queued-resources create "$name" "${where[@]}" "${ask[@]}"
  if [[ -z $dry ]]; then
    echo "waiting for the slice (Ctrl-C and --do=setup,run,logs,delete later is fine)"
    until "${tpu[@]}" queued-resources describe "$name" "${where[@]}" \
      --format='value(state.state)' | grep -q ACTIVE; do sleep 30; done
  fi
fi

if wants setup; then
  archive=$(mktemp -d)/code.tar.gz
  do_it git archive --format=tar.gz --output="$archive" HEAD
  do_it "${tpu[@]}" tpu-vm scp "$archive" "$name:code.tar.gz" "${where[@]}" --worker=all
  everywhere 'mkdir -p code && tar -xzf code.tar.gz -C code && cd code &&
python3.11 -m venv ~/venv && . ~/venv/bin/activate &&
pip install -q -r requirements.txt "jax[tpu]" gcsfs s3fs'
fi

if wants run; then
  quoted=$(printf '%q ' "${program[@]}")
  # --hosts=-1: the workers find each other through the slice's own metadata.
  everywhere "cd code && . ~/venv/bin/activate && set -o pipefail &&
python -m echojepa_jax.main --hosts=-1 $quoted 2>&1 | tee -a ~/train.log"
fi

if wants logs; then
  do_it mkdir -p "logs/$name"
  do_it "${tpu[@]}" tpu-vm scp "$name:train.log" "logs/$name/" "${where[@]}" --worker=all
fi

if wants delete; then
  do_it "${tpu[@]}" queued-resources delete "$name" "${where[@]}" --force --quiet
fi
