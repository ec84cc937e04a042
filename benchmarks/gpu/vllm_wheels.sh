#!/usr/bin/env bash
# Fetches vLLM for the step vllm of benchmarks/gpu/run.sh: bash benchmarks/gpu/vllm_wheels.sh OUT
#
# Leaves OUT/vllm.tar.xz.00, .01, …, each at most 50 MiB, and OUT/vllm-versions.txt. Joined they unpack to one folder for PYTHONPATH
# of a process that runs vLLM on an H100. vLLM comes with the machine code of a Hopper GPU alone, and without what a Llama in 16 or
# 32 bits never calls: FlashAttention 2 and 4, FlashMLA, DeepGEMM, its server in Rust. Its Python is as released.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_fetch.sh"
rm -f "$out"/vllm.tar.xz.* "$out/vllm-versions.txt"

mapfile -t fetched < <(grep -v '^#' "$here/vllm_wheels.txt")
fetch_wheels "${fetched[@]}"
install_wheels

cd "$scratch/site"
rm -rf bin share
(cd vllm && rm -rf _flashmla_C.* _flashmla_extension_C.* _qutlass_C.* _rust_tool_parser.* fs_io_C.* cumem_allocator.* vllm-rs \
  third_party/deep_gemm third_party/fmha_sm100 vllm_flash_attn/_vllm_fa2_C.* vllm_flash_attn/cute)
"$python" "$here/vllm_strip.py" vllm/_C_stable_libtorch.abi3.so vllm/_moe_C_stable_libtorch.abi3.so \
  vllm/vllm_flash_attn/_vllm_fa3_C.abi3.so
"$python" -m pip list --path . --format freeze > "$out/vllm-versions.txt"
tar -c . | xz -T2 --x86 --lzma2=preset=6,dict=32MiB | split --bytes 50M --numeric-suffixes - "$out/vllm.tar.xz."
ls -l "$out"
