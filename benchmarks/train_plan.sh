#!/bin/bash
# Our training beside the peers, in one run of their benchmark, on a machine with a GPU:
#
#   bash benchmarks/train_plan.sh BENCH_DIR [core] [job50] ...      (default: job50)
#
# BENCH_DIR holds run_all.sh; results land in $OUT as it says. ONLY='ours' runs our lines alone.
set -e
here=$(cd "$(dirname "$0")" && pwd)
bench=$(cd "$1" && pwd)
shift
plan=$(mktemp)
peer="python3 $here/train_peer.py"
cat > "$plan" <<PLAN
# ---- the 50-step job: 4 records a step
job50.ours_packed_graph | 90|$peer --set batch_size=4
job50.ours_packed_eager | 90|$peer --set batch_size=4 --set cuda_graph=never
job50.ours_rows_graph   | 90|$peer --set batch_size=4 --set packing=false
job50.ours_fp32_s64     | 90|$peer --set batch_size=4 --set packing=false --set precision=float32 --set max_seq_length=64 --set vocab_multiple=1 --set learning_rate=2.0e-5 --set weight_decay=0.01 --semantics truncated-64
# ---- throughput: about 32k tokens a step
gpt2.ours_packed_graph  |120|$peer --set batch_size=272
gpt2.ours_packed_chunks |120|$peer --set batch_size=272 --set loss_chunk_tokens=8192
gpt2.ours_packed_compile|150|$peer --set batch_size=272 --set compile=always --set cuda_graph=never --set loss_chunk_tokens=8192
gpt2.ours_compile_graph |150|$peer --set batch_size=272 --set compile=always --set cuda_graph=always --set loss_chunk_tokens=8192
# ---- Llama-shaped, 1.08 billion parameters: about 16k tokens a step
llama1b.ours_graph      |150|$peer --model llama1b --warmup 5 --steps 20 --set batch_size=136 --set loss_chunk_tokens=8192 --set learning_rate=1.0e-4
llama1b.ours_compile    |200|$peer --model llama1b --warmup 5 --steps 20 --set batch_size=136 --set loss_chunk_tokens=8192 --set learning_rate=1.0e-4 --set compile=always
PLAN
exec bash "$bench/run_all.sh" "$plan" "${@:-job50}"
