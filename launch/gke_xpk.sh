#!/usr/bin/env bash
# Trains on TPUs of a GKE cluster, through XPK (pip install xpk).
#
#   bash launch/gke_xpk.sh --name=echo --cluster=mine --type=v5litepod-64 --image=REGISTRY/echojepa \
#       --config=configs/vit_l.py --workdir=gs://bucket/run
#
# The image is built by `docker build -f launch/Dockerfile --target=tpu -t REGISTRY/echojepa .` and
# pushed by you. Other flags: --zone, --project, --priority, --dry_run. Whatever is not understood here
# goes to the program. Where a pod is taken away or lost, all are started again, and continue.
set -euo pipefail

name="" cluster="" type="" image="" zone="" project="" priority=medium dry="" workdir=""
program=()
for word in "$@"; do
  case $word in
    --name=*) name=${word#*=} ;;
    --cluster=*) cluster=${word#*=} ;;
    --type=*) type=${word#*=} ;;
    --image=*) image=${word#*=} ;;
    --zone=*) zone=${word#*=} ;;
    --project=*) project=${word#*=} ;;
    --priority=*) priority=${word#*=} ;;
    --dry_run) dry=1 ;;
    --help | -h)
      sed -n '2,9s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    --workdir=*)
      workdir=${word#*=}
      program+=("$word")
      ;;
    *) program+=("$word") ;;
  esac
done
if [[ -z $name || -z $cluster || -z $type || -z $image ]]; then
  echo "error: --name, --cluster, --type and --image must be given; see --help" >&2
  exit 1
fi
if [[ $workdir != gs://* && $workdir != s3://* ]]; then
  echo "error: --workdir must be in a bucket (gs://... or s3://...): pods share no disk" >&2
  exit 1
fi

# What a pod runs. GKE tells the workers of each other in their environment. XPK sends SIGTERM to this
# shell alone, which must hand it on and wait while the program saves. XPK starts pods again that end
# with codes from 127 on: so a program that has saved (0), or has lost another host (75), ends with 143.
# shellcheck disable=SC2016  # for the pod's shell to expand
script="python -m echojepa_jax.main --hosts=0 $(printf '%q ' "${program[@]}")"'> >(tee /tmp/last) & pid=$!
trap "kill -TERM $pid" TERM
wait $pid; code=$?
while kill -0 $pid 2>/dev/null; do wait $pid; code=$?; done
sleep 1
grep -q "^stopped by a signal" /tmp/last && exit 143
[[ $code == 75 ]] && exit 143
exit $code'
command=(
  xpk workload create --workload="$name" --cluster="$cluster" --tpu-type="$type"
  --num-slices=1 --docker-image="$image" --priority="$priority" --max-restarts=20
  --command="exec bash -c $(printf '%q' "$script")"
)
[[ -n $zone ]] && command+=(--zone="$zone")
[[ -n $project ]] && command+=(--project="$project")
if [[ -n $dry ]]; then
  printf '%q ' "${command[@]}"
  echo
else
  "${command[@]}"
fi
