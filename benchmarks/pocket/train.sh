#!/usr/bin/env bash
# Train `pocket` from nothing, as it ships; what is there already is not made again.
#
#   benchmarks/pocket/train.sh PHOTOS WORK
#
# PHOTOS has train/ and dev/. The first half takes two CPU cores some hours, `whole` a GPU with 60 GB
# of memory some minutes (WHOLE_DEVICE=cpu works and takes days), the last half an hour of two cores.
# Packages that only training needs are named in train.py.
set -euo pipefail
photos=$(realpath "$1")
mkdir -p "$2"
work=$(realpath "$2")
cd "$(dirname "$0")/../.."

if [ ! -e "$work/rendered/done" ]; then
  python data/render.py training "$work/rendered" --count 2500 --seed 20261
  touch "$work/rendered/done"
fi
rendered=(--rendered "$work/rendered")
if [ ! -e "$work/sixth/open_clip_model.safetensors" ]; then
  python -m benchmarks.pocket.train --photos "$photos" "${rendered[@]}" --work "$work/run" \
    --output "$work/sixth"
fi
if [ ! -e "$work/pack/minilm.safetensors" ]; then
  python -m benchmarks.pocket.pack --photos "$photos" "${rendered[@]}" --pack "$work/pack"
fi
if [ ! -e "$work/whole/image.safetensors" ]; then
  python -m benchmarks.pocket.whole --pack "$work/pack" --start "$work/sixth" --work "$work/whole" \
    --device "${WHOLE_DEVICE:-cuda}"
fi
python -m benchmarks.pocket.retell --pack "$work/pack" --start "$work/sixth" \
  --image "$work/whole/image.safetensors" --photos "$photos" "${rendered[@]}" \
  --work "$work/retell" --output "$work/pocket"
