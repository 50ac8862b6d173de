#!/usr/bin/env bash
# From a folder of yours to a picture: own_folder.sh DATA ["a prompt"]. Without DATA it takes the icons of the examples as
# most people have their pictures: a text beside each. TIME=8h trains for longer; 90 s show the way, no more.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
data="${1:+$(cd "$(dirname "$1")" && pwd)/$(basename "$1")}"
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"

if [ -z "$data" ]; then
  data="$work/pictures"
  python3 - "$here/icons" "$data" <<'PYTHON'
import json, pathlib, shutil, sys
source, target = map(pathlib.Path, sys.argv[1:])
target.mkdir()
for line in (source / "metadata.jsonl").read_text(encoding="utf-8").splitlines():
    row = json.loads(line)
    captions = next(row[key] for key in ("captions", "text", "caption") if key in row)
    name = pathlib.Path(row["file_name"]).name
    shutil.copy(source / row["file_name"], target / name)
    text = captions if isinstance(captions, str) else "\n".join(captions)
    (target / name).with_suffix(".txt").write_text(text, encoding="utf-8")
PYTHON
fi

t2i check "$data" --preview sheet.png              # what is there, what is left out and why; a sheet to look at
t2i train "$data" -o runs/own --time "${TIME:-90s}" --resolution 32 --batch-size 8 --set contrastive_batch_size=32
t2i sample "${2:-a red apple}" -m runs/own -o out.png
t2i eval runs/own "$data" --metrics text,diversity -n 24 || echo "exit code $? (a set of a few pictures is too small to measure)"
t2i info out.png
ls -l sheet.png out.png
