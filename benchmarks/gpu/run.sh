#!/usr/bin/env bash
# The whole path on one GPU, on a bare machine without a network: bash benchmarks/gpu/run.sh WHEELS OUT [--device cpu] [STEP …]
#
# WHEELS: what wheels.sh left. OUT gets one file of JSON lines per step, logs.tar.gz, and steps.tsv with each step's seconds and exit
# code. Steps, the most valuable first: engine sweep compiled evaluate determinism arms variants; `engine` and `sweep` take five
# minutes, the others as much. The step vllm, with what vllm_wheels.sh left in WHEELS too, runs where it is named. Each has a limit of
# its own, all of them together TOTAL_SECONDS (590), and what a step had until then stays. --device cpu runs all of it at tiny sizes. The machine brings CUDA, torch, transformers and pandas; their versions are in
# versions.txt, and raycodellm is imported from this checkout over its own pins.
set -uo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
wheels="$1" out="$2"
shift 2
device=cuda
if [ "${1:-}" = "--device" ]; then device="$2"; shift 2; fi
steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=(engine sweep compiled evaluate determinism arms variants)
python="${PYTHON:-python3}"
mkdir -p "$out"
work="${WORK:-$(mktemp -d)}"
total="${TOTAL_SECONDS:-590}" # of all steps together
began=$SECONDS
left() { echo $((total - SECONDS + began)); }

if [ ! -d "$work/site" ]; then
  mkdir -p "$work/site"
  cat "$wheels"/site.tar.xz.* | xz -d -T0 | tar -x -C "$work/site" || exit 1
  "$python" -m compileall -q -j 0 "$work/site" raycodellm > /dev/null  # else each of Ray's processes compiles it all
fi
if [ ! -d "$work/vllm-site" ] && compgen -G "$wheels/vllm.tar.xz.*" > /dev/null; then
  mkdir -p "$work/vllm-site"
  cat "$wheels"/vllm.tar.xz.* | xz -d -T0 | tar -x -C "$work/vllm-site" || exit 1
  "$python" -m compileall -q -j 0 "$work/vllm-site" > /dev/null
fi
export PYTHONPATH="$PWD:$work/site" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export RAY_DATA_DISABLE_PROGRESS_BARS=1 HOME="$work/home"
mkdir -p "$HOME"
printf 'unpack\t%s\t0\n' $((SECONDS - began)) >> "$out/steps.tsv"
"$python" - > "$out/versions.txt" 2>&1 <<'PY'
import importlib, platform, torch
print("python", platform.python_version(), "· cpus", __import__("os").cpu_count())
for name in ("torch", "transformers", "ray", "deepspeed", "optuna", "lm_eval", "datasets", "pyarrow", "triton"):
    try:
        print(name, getattr(importlib.import_module(name), "__version__", "?"))
    except Exception as error:
        print(name, "cannot be imported:", error)
print("device", torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu")
PY

step() { # step NAME SECONDS COMMAND…: runs under a limit, notes seconds and exit code, goes on whatever happened
  local name="$1" limit="$2" start=$SECONDS
  shift 2
  [ "$limit" -lt "$(left)" ] || limit="$(left)"
  [ "$limit" -gt 20 ] || { echo "== $name: no time left"; return; }
  timeout --kill-after 10 --signal INT "$limit" "$@" > "$work/$name.log" 2>&1
  local code=$?
  printf '%s\t%s\t%s\n' "$name" $((SECONDS - start)) "$code" >> "$out/steps.tsv"
  echo "== $name: exit $code after $((SECONDS - start)) s"
  tail -c 1500 "$work/$name.log"
}

model() { ls -d "$work"/sweeps/*/stages/pretrain-*/model 2> /dev/null | head -1; }

bench="$python benchmarks/gpu"
if [ "$device" = cuda ]; then
  engine=(--profile --steps 4 --sides engine transformers compiled)
  sweep=(--tokens 16000000 --limit 100) evaluate=(--limit 250) vllm=(--site "$work/vllm-site")
  determinism=(--models 125m --steps 3 --micro-batch 32)
  variants=(--models 125m --steps 4 --micro-batch 16 --sides engine)
  arms=(--tokens 10000000 --limit 200 --seeds 4 --slots 4 --compile)
else
  small=(--device cpu --models tiny --sequence-length 128 --batch-sequences 8 --precision fp32 --steps 3 --micro-batch 4)
  engine=("${small[@]}" --profile --sides engine torch transformers) determinism=("${small[@]}")
  sweep=(--device cpu --preset tiny --precision fp32 --tokens 400000 --batch-tokens 8192 --sequence-length 128 --limit 20)
  variants=("${small[@]}" --sides engine) evaluate=(--device cpu --limit 20)
  vllm=(--backend transformers --device cpu --limit 8 --prompts 8 --tokens 8)
  arms=("${sweep[@]}" --tokens 100000 --ratios 0 0.5 --seeds 2 --slots 2)
fi
for name in "${steps[@]}"; do
  if [[ "$name" = evaluate || "$name" = vllm ]] && [ -z "$(model)" ]; then
    echo "== $name: no model is trained yet; name the step sweep or compiled before it"
    printf '%s\t0\t1\n' "$name" >> "$out/steps.tsv"
    continue
  fi
  case "$name" in
    engine)
      step engine 180 $bench/engine.py "${engine[@]}" --out "$out/engine.jsonl"
      # As the sweeps below train it, without Ray.
      [ "$device" = cpu ] || step nano 60 $bench/engine.py --models nano --sequence-length 512 --batch-sequences 256 \
        --steps 20 --sides engine compiled --profile --out "$out/engine.jsonl"
      ;;
    sweep) step sweep 300 $bench/sweep.py "${sweep[@]}" --folder "$work/sweeps" --out "$out/sweep.jsonl" ;;
    compiled)
      step compiled 160 $bench/sweep.py "${sweep[@]}" --parts compiled --seconds 120 --folder "$work/sweeps" \
        --out "$out/sweep.jsonl"
      ;;
    vllm) step vllm 200 $bench/vllm_answers.py "$(model)" "${vllm[@]}" --out "$out/vllm.jsonl" ;;
    evaluate) step evaluate 120 $bench/evaluate.py "$(model)" "${evaluate[@]}" --out "$out/evaluate.jsonl" ;;
    variants) # what the other steps leave out, one process each, since DeepSpeed keeps state in its modules
      for options in "--precision fp16" "--zero 2" "--zero 3" "--activation-checkpointing"; do
        step "variant$(tr -d ' ' <<< "$options")" 40 $bench/engine.py "${variants[@]}" $options --out "$out/engine.jsonl"
      done
      ;;
    determinism) step determinism 90 $bench/determinism.py "${determinism[@]}" --out "$out/determinism.jsonl" ;;
    arms)
      seconds=$(($(left) - 40)) # so that it stops itself, and tells what it had
      [ "$seconds" -lt 260 ] || seconds=260
      step arms 300 $bench/sweep.py "${arms[@]}" --parts arms --seconds "$seconds" --folder "$work/sweeps" \
        --out "$out/sweep.jsonl"
      ;;
    *) echo "no step $name; there are engine, sweep, compiled, evaluate, vllm, determinism, variants, arms"; exit 2 ;;
  esac
done
(cd "$work" && tar -czf "$out/logs.tar.gz" --ignore-failed-read *.log sweeps/*.log sweeps/*/*/run.log 2> /dev/null)
printf 'all\t%s\t0\n' $((SECONDS - began)) >> "$out/steps.tsv"
cat "$out/steps.tsv"
