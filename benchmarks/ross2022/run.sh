#!/usr/bin/env bash
# One piece of the study: goes on from what the last piece left, for so many seconds, and leaves parts to carry away.
#
#   benchmarks/ross2022/run.sh [SECONDS]    default 540; README.md beside this file says more
#
# From the environment, with defaults:
#   ROSSBENCH_STORE  rossbench-store         the store; joined from PARTS where there is none yet
#   ROSSBENCH_DATA   as of rossbench         folder of the CIFAR files
#   PARTS            rossbench-parts         where the store goes in small files, with the tables and checks
#   PART_MIB         15                      the size of the largest of those files
#   DEVICE           cuda                    as of rossbench run --device
#   CHECK            nothing                 if set, the CUDA tests and the speed benchmark come first
#   CUT              nothing                 options of rossbench run for a shorter run: --epochs 2 --train-limit 200
#   SUITE, FIRST     ross2022, its two data sets' same-task scenarios    what is run, and what of it comes first
#   PYTHON           python                  an interpreter with rossbench
#
# Exit code 0: all is done. 143: there is more to do, call it again. Others: an error; what was done is kept.
set -euo pipefail

seconds=${1:-540}
export ROSSBENCH_STORE=${ROSSBENCH_STORE:-rossbench-store}
store=$ROSSBENCH_STORE
parts=${PARTS:-rossbench-parts}
device=${DEVICE:-cuda}
mib=${PART_MIB:-15}
suite=${SUITE:-ross2022}
python=${PYTHON:-python}
read -ra first <<<"${FIRST:-cifar10-to-cifar10 cifar100-to-cifar100}"
read -ra cut <<<"${CUT:-}"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
child=

left() { echo $((seconds > SECONDS ? seconds - SECONDS : 1)); }

join() {
    (cd "$parts" && sha256sum --quiet --strict --check SHA256SUMS)
    rm -rf "$store.joining"
    cp -a "$parts/store" "$store.joining"
    find "$store.joining" -name '*.part-00' -print0 | while IFS= read -r -d '' part; do
        whole=${part%.part-00}
        cat "$whole".part-?? >"$whole"
        rm "$whole".part-??
    done
    mv "$store.joining" "$store"
}

pack() { # a new folder beside the old one, so that an interrupted packing leaves the old one whole
    [[ -d $store ]] || return 0
    rm -rf "$parts/packing" && mkdir -p "$parts/packing/store"
    tar -C "$store" --exclude=./locks -cf - . | tar -C "$parts/packing/store" -xf -
    find "$parts/packing/store" -type f -size +"${mib}M" \
        -exec split --bytes="${mib}M" --numeric-suffixes --suffix-length=2 {} {}.part- \; -delete
    (cd "$parts/packing" && find store -type f -print0 | sort -z | xargs -0 sha256sum >SHA256SUMS)
    rm -rf "$parts/store" "$parts/SHA256SUMS"
    mv "$parts/packing/store" "$parts/packing/SHA256SUMS" "$parts"
    rmdir "$parts/packing"
}

# One SIGTERM, to rossbench alone: a second one would not wait for the step under way. Without --foreground, timeout
# sends one to its child and one to its group.
piece() { # rossbench run with these arguments; ends the script where the time is over
    local code=0
    timeout --foreground --signal=TERM --kill-after=45 "$(left)" \
        "$python" -m rossbench run "${cut[@]}" --device "$device" "$@" &
    child=$!
    wait "$child" || code=$?
    while kill -0 "$child" 2>/dev/null; do # a signal ended the wait, not the child
        code=0
        wait "$child" || code=$?
    done
    child=
    if ((code == 143 || (code != 0 && SECONDS >= seconds))); then
        echo "run.sh: the time is over; call it again to go on" >&2
        exit 143
    fi
    ((code == 0)) || exit "$code"
}

check() {
    if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
        echo "run.sh: torch sees no GPU: neither the CUDA tests nor the speed benchmark were run" >&2
        return
    fi
    mkdir -p "$parts/checks"
    (cd "$root" && timeout "$(left)" "$python" -m pytest -n 0 -rs \
        tests/test_cuda_graph.py tests/test_train_loop.py tests/test_seeds.py) | tee "$parts/checks/tests.txt"
    timeout "$(left)" "$python" "$root/benchmarks/speed.py" --device "$device" --rounds 3 |
        tee "$parts/checks/speed.txt"
}

if [[ ! -e $store && -e $parts/SHA256SUMS ]]; then join; fi
mkdir -p "$parts/tables"
trap pack EXIT
trap 'seconds=0; [[ -z $child ]] || kill -TERM "$child" 2>/dev/null || true' TERM
if [[ -n ${CHECK:-} ]]; then check; fi

for scenario in "${first[@]}"; do piece "$scenario" --train-eps 0,1 --no-audit; done
piece "$suite" --eval-eps 0 --no-audit # the other rows: trained, and looked at without an attack
piece "$suite"                         # all other evaluations, and the audits

"$python" -m rossbench report "$suite" --format markdown | tee "$parts/tables/report.md"
"$python" -m rossbench report "$suite" --html "$parts/tables/report.html"
if [[ $suite == ross2022* ]]; then # nothing else has published numbers
    "$python" -m rossbench compare "$suite" ${CUT:+--show-reduced} --format markdown | tee "$parts/tables/compare.md"
fi
