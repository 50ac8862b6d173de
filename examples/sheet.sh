#!/usr/bin/env bash
# A contact sheet, an animated morph, variations of a picture, a picture after others, and a picture made again from itself.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"

t2i sample "a red apple" "a blue house" "a green tree" -n 4 --grid -o sheet.png
t2i sample "a cat" --morph "a dog" --seed 3 --frames 12 --scale 2 -o morph.gif

t2i sample "a yellow star" --seed 7 --best-of 8 -o star.png
t2i sample --from star.png -o again.png && cmp star.png again.png && echo "the same bytes"
t2i sample "a yellow star" --vary star.png -n 2 -o 'variation-{k}.png'

t2i sample "a blue star" --like star.png -o like.png              # no training: star.png is what it draws after
t2i sample "a blue star" --references 0 --steps 4 -o memory.png   # from memory, in fewer steps
t2i sample "a blue star" --style none -n 3 -o 'any-style-{k}.png'

t2i sample "a yellow star" --scale 4 --background white --format jpg -o - > star.jpg   # into any other program
ls -l
