#!/usr/bin/env bash
# Prompts drawn by several processes (or machines), then measured as one folder: docs/scale.md.
set -euo pipefail
icons="$(cd "$(dirname "$0")" && pwd)/icons"
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"

python3 - "$icons" > prompts.txt <<'PYTHON'
import json, sys
for line in open(sys.argv[1] + "/metadata.jsonl", encoding="utf-8").readlines()[:24]:
    row = json.loads(line)
    caption = next(row[key] for key in ("captions", "text", "caption", "prompt") if key in row)
    print(caption[0] if isinstance(caption, list) else caption)
PYTHON

# each shard writes a row a picture; --skip-existing and >> let one that was cut off go on
for k in 1 2; do
  t2i sample -i prompts.txt --shard "$k/2" -o 'out/{i:05}.png' --skip-existing --json >> "rows-$k.jsonl" &
done
wait

# what was asked for beside what was drawn: a data set as any other
cat rows-*.jsonl | python3 -c 'import json, sys
for row in map(json.loads, sys.stdin):
    print(json.dumps({"file_name": row["path"].removeprefix("out/"), "text": row["prompt"]}))' > out/metadata.jsonl
t2i eval out "$icons" --metrics text -n 24
