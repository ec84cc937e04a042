"""Answers prompts with vLLM. `vllm_writer.py` runs this file in a Python that has vLLM, which is mostly not this one:
vLLM asks for other versions of torch and transformers. It imports nothing of this package.

Standard input and output carry a line of JSON each way: first the settings of `vllm.LLM`, answered by vLLM's version;
then prompts with their sampling parameters, answered by the tokens. An answer `error` ends the process.

Written against vLLM 0.33.0; 0.32.0 ran on a CPU.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, TextIO


def main() -> int:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # vLLM logs to standard output, which is for the answers here
    try:
        import vllm  # type: ignore[import-not-found, unused-ignore]

        llm = vllm.LLM(**json.loads(sys.stdin.readline()))
        _tell(answers, {"version": vllm.__version__})
        for line in sys.stdin:
            _tell(answers, {"tokens": _generate(llm, vllm.SamplingParams, json.loads(line))})
    except Exception as error:  # of any kind: the process that asked tells it
        _tell(answers, {"error": f"{type(error).__name__}: {error}"})
        return 1
    return 0


def _generate(llm: Any, sampling_params: Any, request: dict[str, Any]) -> list[list[int]]:
    """The tokens of the answer to each prompt; the last one ends the text, if a token does so."""
    outputs = llm.generate(
        [{"prompt_token_ids": prompt} for prompt in request["prompts"]],
        [sampling_params(**params) for params in request["params"]],
        use_tqdm=False,
    )
    return [[*output.outputs[0].token_ids] for output in outputs]


def _tell(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":  # vLLM starts processes that import this file again
    sys.exit(main())
