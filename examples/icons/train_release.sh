#!/bin/sh
# Train the model that ships, from a folder of captioned drawings: one command, and it goes on where it was stopped.
#
#   examples/icons/train_release.sh DATA              190 minutes of one CPU core, size tiny: about what weights/icons is
#   TIME=60m SIZE=small examples/icons/train_release.sh DATA --device cuda        an hour of one GPU
#
# DATA: tar shards, or any folder that `t2i check` likes. Without it, the 595 drawings beside this script.
set -eu
here=$(dirname "$0")
data=${1:-$here}
[ $# -gt 0 ] && shift
run=${RUN:-runs/icons}
until t2i train "$data" -o "$run" --size "${SIZE:-tiny}" --time "${TIME:-190m}" \
    --set contrastive=0.06 --set flow=0.54 --set distill=0.07 --set adversarial=0.33 --resume "$@"; do
    code=$?
    case $code in 2 | 3 | 130 | 143) exit $code ;; esac # what trying again cannot mend
    sleep 5
done
python "$here/release.py" "$run" "$data"
