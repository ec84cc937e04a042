#!/usr/bin/env bash
# Fetches what benchmarks/gpu/run.sh installs on a machine without a network: bash benchmarks/gpu/wheels.sh OUT
#
# Leaves OUT/site.tar.xz.00, .01, …, each at most 60 MiB, and OUT/versions.txt. Joined they unpack to one folder for PYTHONPATH.
# Ray comes without its Java, RLlib and the dashboard's pages, which no step uses. PYTHON (3.12 with torch and setuptools) builds
# DeepSpeed, which ships as source, without compiled operators.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_fetch.sh"
rm -f "$out"/site.tar.xz.* "$out/versions.txt"

source_only='^(deepspeed|rouge_score|sqlitedict|word2number)=='
mapfile -t built < <(grep -E "$source_only" "$here/wheels.txt")
mapfile -t fetched < <(grep -vE "$source_only|^#" "$here/wheels.txt")

fetch_wheels "${fetched[@]}"
DS_BUILD_OPS=0 "$python" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$scratch/wheels" "${built[@]}"

install_wheels
(cd "$scratch/site" && rm -rf ray/jars ray/rllib ray/dashboard/client/build/* ray/serve bin
  mkdir -p ray/dashboard/client/build/static && echo "the pages were left out" > ray/dashboard/client/build/index.html)
"$python" -m pip list --path "$scratch/site" --format freeze > "$out/versions.txt"

tar -C "$scratch/site" -c . | xz -T2 -6 | split --bytes 60M --numeric-suffixes - "$out/site.tar.xz."
ls -l "$out"
