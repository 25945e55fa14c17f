#!/bin/sh
# Train the faithful model from nothing on a GPU, within nine minutes:
#
#     training/on_gpu.sh data/crops.npz OUT [MINUTES] [further options of training.train]
#
# OUT/run/best.npz are the weights; training.export makes the model of them. The crops must be in
# the checkout where it is copied to another machine; training.prepare's --max-mb limits their size.
# For want of a GPU: training/on_gpu.sh data/crops.npz OUT 1 --device cpu --batch 2
set -eu
crops=$1 out=$2 minutes=${3:-8}
shift "$(($# < 3 ? $# : 3))"
mkdir -p "$out"
python3 -m training.train "$crops" "$out/run" --device cuda --on-device --minutes "$minutes" \
    --batch 64 --side 48 --rate 4e-4 "$@" | tee "$out/train.log"
rm "$out/run/checkpoint.pt" # 20 MB, and the run is over
