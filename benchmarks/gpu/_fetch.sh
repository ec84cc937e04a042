# Sourced by wheels.sh and vllm_wheels.sh, with their OUT as $1: the folders in use, fetch_wheels and install_wheels.

out="$(mkdir -p "$1" && cd "$1" && pwd)"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="${PYTHON:-python3.12}"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

fetch_wheels() { # fetch_wheels REQUIREMENT…: wheels for CPython 3.12 on x86-64 Linux, without what they need, to $scratch/wheels
  local platform platforms=()
  for platform in 2_35 2_34 2_31 2_28 2_27 2_24 2_17; do platforms+=(--platform "manylinux_${platform}_x86_64"); done
  platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)
  "$python" -m pip download --quiet --no-deps --dest "$scratch/wheels" --python-version 3.12 --implementation cp \
    --only-binary=:all: "${platforms[@]}" "$@"
}

install_wheels() { # all of them into $scratch/site
  "$python" -m pip install --quiet --no-deps --no-compile --no-index --target "$scratch/site" "$scratch"/wheels/*.whl
}
