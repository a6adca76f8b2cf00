#!/usr/bin/env bash
# One sitting on a machine that is lent: take what earlier sittings brought, train until the deadline, pack what there is.
#
#   docs/scripts/sitting.sh cifar100 --pairs resnet32x4:resnet8x4 --methods kd,sdd_kd
#
# The arguments are those of `python -m benchmark.run`. Folders and times come from the environment:
#   IN        bundles of earlier sittings, and archives of images in pieces (NAME.part-aa, ...)   (default: in)
#   OUT       the bundle of this sitting, to be brought home                                       (default: out)
#   DEADLINE  for the training; merging before and packing after it take a minute more             (default: 9m)
#   RUNS, DATA, PYTHON                                                 (default: runs, data, .venv/bin/python)
#
# Exit code: 0 when all runs are finished, 75 when the next sitting goes on, else the command's that failed.
set -euo pipefail

IN=${IN:-in} OUT=${OUT:-out} DEADLINE=${DEADLINE:-9m} RUNS=${RUNS:-runs} DATA=${DATA:-data}
PYTHON=${PYTHON:-.venv/bin/python}
export BENCH_RUNS=$RUNS BENCH_DATA=$DATA BENCH_OFFLINE=1

mkdir -p "$IN" "$OUT" "$DATA"
for first in "$IN"/*.part-aa; do # images that were split: `split -b 50M ARCHIVE ARCHIVE.part-`
    [ -e "$first" ] || continue
    name=$(basename "${first%.part-aa}")
    [ -e "$DATA/$name" ] || cat "${first%aa}"* > "$DATA/$name" # checked against its published checksum when it is used
done

bundles=("$IN"/*.[0-9][0-9][0-9])
if [ -e "${bundles[0]}" ]; then
    "$PYTHON" -m benchmark merge "${bundles[@]}"
fi

code=0
"$PYTHON" -m benchmark.run "$@" --deadline "$DEADLINE" || code=$?
case $code in
    0 | 1 | 75) "$PYTHON" -m benchmark pack "$OUT/sitting" ;; # 1: runs have failed, which is a result too
esac
exit "$code"
