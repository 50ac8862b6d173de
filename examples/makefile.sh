#!/usr/bin/env bash
# Icons by make: icons.mk draws what is missing from a list of names and prompts.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"

printf 'save\ta blue floppy disk\nhome\ta red house\nlike\ta red heart\n' > icons.txt
make -f "$here/icons.mk" SCALE=2
make -f "$here/icons.mk" SCALE=2                     # nothing is left to do
touch -d '+1 minute' icons.txt
make -f "$here/icons.mk" build/like.png SCALE=2      # one of them, anew
ls build
