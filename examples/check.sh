#!/usr/bin/env bash
# Look at a data set before training on it, and let a script act on what was found.
set -euo pipefail
icons="$(cd "$(dirname "$0")" && pwd)/icons"
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"

# for a person: the layout, what is wrong with its mend beside it, and what there is
t2i check "$icons"

# nothing in it can be read: exit code 3 says so, --json lists every file
mkdir broken && printf 'no picture' > broken/b.png && printf 'a cut picture\n' > broken/b.txt
if t2i check broken; then echo "this should not pass"; exit 1; else echo "exit code $?"; fi

# a bad file among good ones is left out; --strict refuses the set instead
cp -r "$icons" some && printf 'no picture' > some/images/fluent-anchor.webp
t2i check some
if t2i check some --strict > strict.txt; then echo "this should not pass"; exit 1; else tail -n 1 strict.txt; fi
t2i check broken --json > report.json || true
python3 -c '
import json
for problem in json.load(open("report.json"))["problems"]:
    print(problem["count"], problem["kind"], problem["items"])
'
