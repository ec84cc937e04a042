#!/usr/bin/env bash
# Fetches what benchmarks/gpu/run.sh installs on a machine without a network: bash benchmarks/gpu/wheels.sh OUT
#
# Leaves OUT/site.tar.xz.00, .01, …, each at most 60 MiB, and OUT/versions.txt. Joined they unpack to one folder for PYTHONPATH.
# Ray comes without its Java, RLlib and the dashboard's pages, which no step uses. PYTHON (3.12 with torch and setuptools) builds
# DeepSpeed, which ships as source, without compiled operators.
set -euo pipefail

out="$(mkdir -p "$1" && cd "$1" && pwd)"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="${PYTHON:-python3.12}"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
rm -f "$out"/site.tar.xz.* "$out/versions.txt"

source_only='^(deepspeed|rouge_score|sqlitedict|word2number)=='
mapfile -t built < <(grep -E "$source_only" "$here/wheels.txt")
mapfile -t fetched < <(grep -vE "$source_only|^#" "$here/wheels.txt")
platforms=()
for platform in 2_34 2_28 2_27 2_17; do platforms+=(--platform "manylinux_${platform}_x86_64"); done
platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)

"$python" -m pip download --quiet --no-deps --dest "$scratch/wheels" --python-version 3.12 --implementation cp \
  --only-binary=:all: "${platforms[@]}" "${fetched[@]}"
DS_BUILD_OPS=0 "$python" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$scratch/wheels" "${built[@]}"

"$python" -m pip install --quiet --no-deps --no-compile --no-index --target "$scratch/site" "$scratch"/wheels/*.whl
(cd "$scratch/site" && rm -rf ray/jars ray/rllib ray/dashboard/client/build/* ray/serve bin
  mkdir -p ray/dashboard/client/build/static && echo "the pages were left out" > ray/dashboard/client/build/index.html)
"$python" -m pip list --path "$scratch/site" --format freeze > "$out/versions.txt"

tar -C "$scratch/site" -c . | xz -T2 -6 | split --bytes 60M --numeric-suffixes - "$out/site.tar.xz."
ls -l "$out"
