#!/bin/bash
# Our training beside the peers, in one run of their benchmark, on a machine with a GPU:
#
#   bash benchmarks/train_plan.sh BENCH_DIR [core] [job50] ...      (default: job50)
#
# BENCH_DIR holds run_all.sh; results land in $OUT as it says. ONLY='ours' runs our lines alone.
# Our lines come first, so that what a time limit cuts is a peer's.
set -e
here=$(cd "$(dirname "$0")" && pwd)
bench=$(cd "$1" && pwd)
shift
plans=${*:-job50}
plan=$(mktemp)
peer="python3 $here/train_peer.py"
small="--set batch_size=4"
gpt2="--set batch_tokens=32768 --set kernels=always"
llama="--model llama1b --warmup 5 --steps 20 --set batch_tokens=16384 --set learning_rate=1.0e-4 --set kernels=always"
case "$plans" in *job50*) cat >> "$plan" <<PLAN ;; esac
# ---- the 50-step job: 4 records a step; as the policy chooses, with our kernels compiled first, and with them kept
job50.bare_import       | 60|python3 $here/train_bare.py
job50.ours              | 90|$peer $small
job50.ours_kernels_cold | 90|$peer $small --set kernels=always
job50.bare_import_2     | 60|python3 $here/train_bare.py
job50.ours_kernels_kept | 90|CACHE=job50.ours_kernels_cold $peer $small
job50.bare_import_3     | 60|python3 $here/train_bare.py
job50.ours_2            | 90|$peer $small
job50.ours_kernels_kept2| 90|CACHE=job50.ours_kernels_cold $peer $small
job50.ours_fp32_s64     | 90|$peer $small --set packing=false --set precision=float32 --set max_seq_length=64 --set vocab_multiple=1 --set learning_rate=2.0e-5 --set weight_decay=0.01 --semantics truncated-64
job50.bare_import_4     | 60|python3 $here/train_bare.py
PLAN
case "$plans" in *core*) cat >> "$plan" <<PLAN ;; esac
# ---- throughput: 32,768 tokens a step
gpt2.ours               | 90|$peer $gpt2
# ---- Llama-shaped, 1.08 billion parameters: 16,384 tokens a step
llama1b.ours            |120|$peer $llama
PLAN
case "$plans" in *steps*) cat >> "$plan" <<PLAN ;; esac
# ---- the step table: one speed-up after the other
gpt2.step_rows_eager    | 90|$peer --set batch_size=277 --set packing=false --set cuda_graph=never --set kernels=never
gpt2.step_packed        | 90|$peer --set batch_tokens=32768 --set cuda_graph=never --set kernels=never
gpt2.step_graph         | 90|$peer --set batch_tokens=32768 --set kernels=never
gpt2.step_chunks        | 90|$peer --set batch_tokens=32768 --set kernels=never --set loss_chunk_tokens=8192
gpt2.step_kernels       | 90|$peer $gpt2 --set cuda_graph=never
gpt2.step_kernels_graph | 90|$peer $gpt2
PLAN
case "$plans" in *fp8*) cat >> "$plan" <<PLAN ;; esac
# ---- products in float8: their speed, and what they do to the loss
llama1b.ours            |120|$peer $llama
llama1b.ours_fp8        |120|$peer $llama --set fp8=true
gpt2.ours               | 90|$peer $gpt2
gpt2.ours_fp8           | 90|$peer $gpt2 --set fp8=true
gpt2.fp8_losses         |180|python3 $here/train_fp8.py --ways kernels,fp8,plain,float32
PLAN
rest=()
for one in $plans; do case "$one" in steps | fp8) ;; *) rest+=("$one") ;; esac; done
exec bash "$bench/run_all.sh" "$plan" "${rest[@]}"
