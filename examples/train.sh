#!/usr/bin/env bash
# From a folder of captioned pictures to a model and a picture, in about a minute. The settings are far too small for a
# good model: they show the way. Leave out the last line of options of `t2i train` and give --time 2h instead.
set -euo pipefail
icons="$(cd "$(dirname "$0")" && pwd)/icons"
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"

t2i train "$icons" -o runs/first --time 40s \
  --size tiny --resolution 32 --set contrastive_batch_size=64 --set batch_size=16

ls runs/first                                   # what a run leaves
tail -n 1 runs/first/log.jsonl | head -c 300; echo

# kill it and go on: the same command with --resume starts, goes on, or finds nothing left to do
t2i train "$icons" -o runs/second --steps 40 --resolution 32 --set contrastive_batch_size=64 --set batch_size=8 \
  --resume -q > /dev/null & job=$!
sleep 15; kill -TERM "$job" 2> /dev/null || true; wait "$job" || echo "stopped with exit code $?"
t2i train "$icons" -o runs/second --steps 40 --resolution 32 --set contrastive_batch_size=64 --set batch_size=8 --resume

t2i sample "a red apple" -m runs/first -o apple.png
ls -l apple.png
