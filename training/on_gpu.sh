#!/bin/sh
# Train both models on one GPU, within eleven minutes:
#
#     training/on_gpu.sh CROPS TEACHER OUT
#
# CROPS is made by training.prepare, TEACHER is as for training.pairs, and may arrive while the
# faithful model trains. OUT/*.npz are the weights; training.export makes models of them. MINUTES,
# PAIR_MINUTES, RESTORE_MINUTES and SHARPEN_MINUTES say how long each part takes. To try it without
# a GPU: DEVICE=cpu BATCH=2, and a tenth of a minute for each. Needs PyTorch, OpenCV, matplotlib.
set -eu
crops=$1 teacher=$2 out=$3
device=${DEVICE:-cuda}
work=$(mktemp -d)

keep() { # FILES; OUT may be emptied while this works
    mkdir -p "$out"
    cp "$@" "$out"
}

train() { # NAME, then options
    name=$1
    shift
    python3 -m training.train "$crops" "$work/$name" --device "$device" --on-device \
        --batch "${BATCH:-64}" --side 48 "$@" 2>&1 | tee "$work/$name.log"
    for weights in best last; do
        cp "$work/$name/$weights.npz" "$work/$name-$weights.npz"
    done
    keep "$work/$name-best.npz" "$work/$name-last.npz" "$work/$name.log"
}

train faithful --rate 4e-4 --minutes "${MINUTES:-5}"
[ -f "$teacher.bin" ] || echo "waiting for $teacher.bin"
until [ -f "$teacher.bin" ]; do sleep 1; done
python3 -m training.pairs "$crops" "$teacher" "$work/pairs" --device "$device" \
    --minutes "${PAIR_MINUTES:-1.2}" > "$work/pairs.log" 2>&1
keep "$work/pairs.log"
train restore --pairs "$work/pairs" --start superres/models/EDSR_x3_restore.pb --rate 4e-4 \
    --minutes "${RESTORE_MINUTES:-2.5}"
train sharpen --pairs "$work/pairs" --start "$work/restore/last.npz" --adversary --rate 1e-4 \
    --minutes "${SHARPEN_MINUTES:-1.5}"
rm -r "$work"
