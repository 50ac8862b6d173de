#!/usr/bin/env bash
# Look at a data set before training on it, and let a script act on what was found.
set -euo pipefail
icons="$(cd "$(dirname "$0")" && pwd)/icons"
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"

# for a person: the layout, what is wrong with its mend beside it, and what there is
t2i check "$icons"

# a caption is missing and a picture is cut short: exit code 3 says so, --json lists every file
mkdir broken && printf 'no picture' > broken/b.png && printf 'a cut picture\n' > broken/b.txt
if t2i check broken; then echo "this should not pass"; exit 1; else echo "exit code $?"; fi
t2i check broken --json > report.json || true
python3 -c '
import json
for problem in json.load(open("report.json"))["problems"]:
    print(problem["count"], problem["kind"], problem["items"])
'
