#!/usr/bin/env bash
# Make a tokenizer from captions, look at what a prompt becomes, and count words that are not known.
set -euo pipefail
icons="$(cd "$(dirname "$0")" && pwd)/icons"
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"

t2i tokenize --train "$icons" -o tokenizer.model --vocab-size 1000
t2i tokenize "a red cat" -m tokenizer.model
t2i tokenize "a red cat" -m tokenizer.model --ids

# a file of prompts, one JSON object a line: which hold pieces that the captions never had?
printf 'a red cat\nein roter Käfer\n' | t2i tokenize - -m tokenizer.model --json |
  python3 -c '
import json, sys
for row in map(json.loads, sys.stdin):
    print(row["unknown_tokens"], "unknown in", row["text"])
'
