#!/usr/bin/env bash
# From a folder of captioned pictures to a model and a picture. The settings are far too small for a good model: they show
# the way in a minute. For a real one leave out the second line of `t2i train` and give --time 2h.
set -euo pipefail
icons="$(cd "$(dirname "$0")" && pwd)/icons"
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"

t2i train "$icons" -o runs/first \
  --steps 12 --resolution 32 --batch-size 8 --set contrastive_batch_size=32

ls runs/first                                       # what a run leaves
tail -n 1 runs/first/log.jsonl | head -c 300; echo  # a row a report
t2i info runs/first                                 # what it says about itself

t2i sample "a red apple" -m runs/first -o apple.png
ls -l apple.png

# the same command may be given again and again: it starts, goes on, or finds nothing left to do
for _ in 1 2; do
  t2i train "$icons" -o runs/second --resume -q \
    --steps 600 --resolution 32 --batch-size 4 --set contrastive_batch_size=16 & job=$!
  sleep 10
  kill -TERM "$job" 2> /dev/null || true
  wait "$job" || echo "stopped with exit code $?"
done
