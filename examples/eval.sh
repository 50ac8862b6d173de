#!/usr/bin/env bash
# How good are the pictures of some tool? Here they are real ones, and real ones with the captions of others.
set -euo pipefail
icons="$(cd "$(dirname "$0")" && pwd)/icons"
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"

python3 - "$icons" <<'PYTHON'
import json, pathlib, shutil, sys
rows = [json.loads(line) for line in open(sys.argv[1] + "/metadata.jsonl", encoding="utf-8")][:200]
for folder, shift in (("right", 0), ("wrong", 1)):
    pathlib.Path(folder).mkdir()
    for i, row in enumerate(rows):
        shutil.copy(sys.argv[1] + "/" + row["file_name"], f"{folder}/{i:03}" + pathlib.Path(row["file_name"]).suffix)
        other = rows[(i + shift) % len(rows)]
        caption = next(other[key] for key in ("captions", "text", "caption", "prompt") if key in other)
        caption = caption[0] if isinstance(caption, list) else caption
        pathlib.Path(f"{folder}/{i:03}.txt").write_text(caption, encoding="utf-8")
PYTHON

t2i eval right wrong "$icons" --report how-good.html
ls -l how-good.html

# in a script: exit code 5 says that a condition holds
if t2i eval wrong "$icons" --metrics text --fail-if 'retrieval<0.2' --json > figures.json; then
  echo "this should not pass"; exit 1
else
  echo "exit code $?"
fi
