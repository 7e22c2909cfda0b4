#!/usr/bin/env bash
# Repeat every speed benchmark that a laptop can, in under 30 minutes on two cores with VNNI. Older
# ones take twice as long.
#
#   benchmarks/run.sh PHOTOS [WORK]
#
# PHOTOS is a folder of some hundred JPEGs of about 500 px (or of tars of them). WORK takes about
# 14 GB, and 7 for the peers' environments; it keeps what was made for the next time. Run it in
# the environment that clipsearch is installed in (`pip install .`), with `pip install onnx
# matplotlib` for the peer's files and the charts; the peers are installed into environments of
# their own, and rclip needs Python 3.12 (PYTHON312).
set -euo pipefail
photos=$(realpath "$1")
work=${2:-/tmp/clipsearch-benchmarks}
cd "$(dirname "$0")/.."
mkdir -p "$work"
python -m benchmarks.speed.indexing "$photos" "$work"
python -m benchmarks.speed.queries "$work"
python -m benchmarks.speed.warm "$work"
python -m benchmarks.speed.search "$work"
python -m benchmarks.speed.search "$work" --spread hard
python -m benchmarks.speed.rescan "$work"
# A tar of photos with captions that pocket was not trained on, if there is one.
if [ -n "${CLIPSEARCH_BENCH_CAPTIONED:-}" ]; then
  python -m benchmarks.speed.fidelity "$CLIPSEARCH_BENCH_CAPTIONED"
fi
python -m benchmarks.report
