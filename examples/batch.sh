#!/usr/bin/env bash
# A CSV of prompts -> a folder of pictures, and again at no cost: what is there already is skipped. Then in shards.
# Another model than the shipped one: T2I_MODEL=runs/mine bash examples/batch.sh
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"

cat > products.csv <<'CSV'
sku,caption,seed
A-100,a red apple,1
A-101,"a green apple, with a leaf",2
B-200,a blue house,3
CSV

# one JSON object a row: whatever the columns are called, this is where they become prompt, id and seed
csv2prompts() {
  python3 -c 'import csv, json, sys
for row in csv.DictReader(sys.stdin):
    print(json.dumps({"prompt": row["caption"], "id": row["sku"], "seed": int(row["seed"])}))'
}

csv2prompts < products.csv | t2i sample - -o 'pictures/{id}.png' --json | tee results.jsonl
csv2prompts < products.csv | t2i sample - -o 'pictures/{id}.png' --skip-existing

# the same list shared by four processes (or machines): together they draw what one would, under the same names
csv2prompts < products.csv > prompts.jsonl
for k in 1 2 3 4; do
  t2i sample -i prompts.jsonl --shard "$k/4" -o 'shards/{id}.png' -q > /dev/null &
done
wait
diff -r pictures shards && echo "four shards drew the same files as one run"
