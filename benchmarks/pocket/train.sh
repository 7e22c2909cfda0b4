#!/usr/bin/env bash
# Train `pocket` from nothing, as it ships; what is there already is not made again.
#
#   benchmarks/pocket/train.sh [--rehearsal] PHOTOS WORK
#
# PHOTOS has train/ and dev/. The first half, `train`, takes two CPU cores some hours and makes a
# whole model, WORK/sixth. `whole` takes a GPU with 60 GB of memory some minutes (WHOLE_DEVICE=cpu
# works and takes days), and the last half an hour of two cores. Packages that only training needs
# are named in train.py. --rehearsal takes a few steps of every stage; rehearse.py does it, and kills
# it now and then.
set -euo pipefail
scenes=2500 train=() pack=() whole=(--device "${WHOLE_DEVICE:-cuda}") retell=()
if [ "$1" = --rehearsal ]; then
  scenes=12 train=(--rehearsal) pack=(--rehearsal) whole=(--device cpu --rehearsal) retell=(--steps 3)
  shift
fi
photos=$(realpath "$1")
mkdir -p "$2"
work=$(realpath "$2")
cd "$(dirname "$0")/../.."

if [ ! -e "$work/rendered/done" ]; then
  python data/render.py training "$work/rendered" --count "$scenes" --seed 20261
  touch "$work/rendered/done"
fi
rendered=(--rendered "$work/rendered")
if [ ! -e "$work/sixth/done" ]; then
  python -m benchmarks.pocket.train --photos "$photos" "${rendered[@]}" --work "$work/run" \
    --output "$work/sixth" "${train[@]}"
  touch "$work/sixth/done"
fi
if [ ! -e "$work/pack/minilm.safetensors" ]; then
  python -m benchmarks.pocket.pack --photos "$photos" "${rendered[@]}" --pack "$work/pack" \
    "${pack[@]}"
fi
if [ ! -e "$work/whole/image.safetensors" ]; then
  python -m benchmarks.pocket.whole --pack "$work/pack" --start "$work/sixth" --work "$work/whole" \
    "${whole[@]}"
fi
if [ ! -e "$work/pocket/done" ]; then
  python -m benchmarks.pocket.retell --pack "$work/pack" --start "$work/sixth" \
    --image "$work/whole/image.safetensors" --photos "$photos" "${rendered[@]}" \
    --work "$work/retell" --output "$work/pocket" "${retell[@]}"
  touch "$work/pocket/done"
fi
