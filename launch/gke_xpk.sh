#!/usr/bin/env bash
# Trains on TPUs of a GKE cluster with XPK (pip install xpk).
#
#   bash launch/gke_xpk.sh --name=echo --cluster=mine --type=v5litepod-64 --image=REGISTRY/echojepa \
#       --config=configs/vit_l.py --workdir=gs://bucket/run
#
# Build the image with `docker build -f launch/Dockerfile --target=tpu -t REGISTRY/echojepa .` and push
# it. Other flags: --zone, --project, --priority, --dry_run. All remaining flags go to the program. If a
# pod is preempted or lost, all pods start again and training continues.
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
  echo "error: --workdir must be in a bucket (gs://... or s3://...): pods do not share a disk" >&2
  exit 1
fi

# The script of a pod. GKE describes the workers to each other in their environment. XPK sends SIGTERM
# only to this shell, which must pass it on and wait while the program saves. XPK restarts pods that end
# with a code of at least 127: so this script returns 143 if the program saved (0) or lost a host (75).
# shellcheck disable=SC2016  # the pod's shell expands it
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
