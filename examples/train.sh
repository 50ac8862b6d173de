#!/usr/bin/env bash
# From a folder of captioned pictures to a model and a picture. The settings are far too small for a good model: they show
# the way in a minute. For a real one leave out the second line of `t2i train` and give --time 30m.
set -euo pipefail
icons="$(cd "$(dirname "$0")" && pwd)/icons"
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"

# it starts from the shipped model, and draws from these pictures before its first step
t2i train "$icons" -o runs/first \
  --steps 12 --batch-size 8

ls runs/first                                       # what a run leaves
tail -n 1 runs/first/log.jsonl | head -c 300; echo  # a row a report
t2i info runs/first                                 # what it says about itself

t2i sample "a red apple" -m runs/first -o apple.png
ls -l apple.png
t2i export runs/first --no-references -o bare.safetensors   # without the pictures that it learned from

# from nothing, at 32 px; the same command may be given again and again: it starts, goes on, or finds nothing left to do
for _ in 1 2; do
  t2i train "$icons" -o runs/second --resume -q --init none \
    --steps 600 --resolution 32 --batch-size 4 --set contrastive_batch_size=16 & job=$!
  sleep 10
  kill -TERM "$job" 2> /dev/null || true
  wait "$job" || echo "stopped with exit code $?"
done
