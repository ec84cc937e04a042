"""The functions that the YAML files of code tasks name: documents, verdicts on the answers, and their scores.

The verdicts on all answers of a block are found by a filter of lm-eval, since a filter sees them together: the sandbox
then works on several at once. A task's file says so by `metadata: {runs_code: true}`; no other task runs code.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raycodellm.evaluation.code.judging import Attempt, verdicts
from raycodellm.evaluation.code.scores import scores
from raycodellm.evaluation.sandbox import Program, Verdict

if TYPE_CHECKING:
    import datasets

Doc = Mapping[str, Any]
MBPP_TEST_IDS = range(11, 511)
"""Numbers of the tasks in MBPP's test split (Austin et al. 2021, section 2.1)."""


# ------------------------------------------------------------------------------------------------- documents


def mbpp_docs(dataset: datasets.Dataset) -> datasets.Dataset:
    """MBPP's test split, also from a file that holds all 974 tasks; see `mbpp_item`."""
    chosen = [index for index, number in enumerate(dataset["task_id"]) if number in MBPP_TEST_IDS]
    return _mapped(dataset.select(chosen), mbpp_item)


def sanitized_docs(dataset: datasets.Dataset) -> datasets.Dataset:
    """All tasks of a split of sanitized MBPP; see `mbpp_item` and `signature_item`."""
    return _mapped(dataset, signature_item if "entry_point" in dataset.features else mbpp_item)


def _mapped(dataset: datasets.Dataset, item: Callable[[Doc], dict[str, Any]]) -> datasets.Dataset:
    import datasets

    return datasets.Dataset.from_list([item(row) for row in dataset])


def mbpp_item(row: Doc) -> dict[str, Any]:
    """A task in the schema of the hub's data set, full or sanitized, in the columns that the tasks' files name."""
    code, tests = _lines(row["code"]), [_lines(test) for test in row["test_list"]]
    setup = [_lines(text) for text in (*(row.get("test_imports") or ()), row.get("test_setup_code") or "") if text]
    return _item(row["task_id"], row.get("text") or row["prompt"], code, tests, setup)


def signature_item(row: Doc) -> dict[str, Any]:
    """A task in HumanEval's schema, as copies of MBPP have it: its prompt is a signature and a docstring with the
    question, and its test a function `check` of assertions. Such copies have lost the tests' import of `math`."""
    head = ast.parse(row["prompt"].strip() + "\n    pass").body[-1]
    assert isinstance(head, ast.FunctionDef)
    question = inspect.cleandoc(ast.get_docstring(head) or "")
    signature = re.split(r"\n\s*(?:'''|\"\"\")", row["prompt"].strip(), maxsplit=1)[0]
    checks = next(node for node in ast.parse(row["test"]).body if isinstance(node, ast.FunctionDef))
    tests = [ast.unparse(statement) for statement in checks.body]
    setup = ["import math"] if any("math." in test for test in tests) else []
    return _item(row["task_id"], question, f"{signature}\n{row['canonical_solution']}".rstrip(), tests, setup)


def _item(task_id: Any, question: str, code: str, tests: Sequence[str], setup: Sequence[str]) -> dict[str, Any]:
    question = question.strip()
    return {
        "task_id": str(task_id),
        "question": question,
        # The tests tell the function's name. A model completes a file that begins with this docstring.
        "prompt": "\n".join(['"""', question, *tests, '"""', ""]),
        "code": code,
        "test": "\n".join([*setup, *tests]),
        "entry_point": _entry_point(code, tests),
    }


def _entry_point(code: str, tests: Sequence[str]) -> str:
    """The function or class of the task's own solution that its tests call."""
    called = {node.id for test in tests for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Name)}
    defined = [node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return next(name for name in defined if name in called)


def _lines(text: str) -> str:
    """The text with newlines in place of MBPP's carriage returns."""
    return text.replace("\r\n", "\n")


# ------------------------------------------------------------------------------------------------- verdicts


def judge_humaneval(responses: Sequence[Sequence[str]], docs: Sequence[Doc]) -> list[list[dict[str, str]]]:
    """For each item the verdict on each sample: a completion of the item's prompt."""
    return _judge(_completion, responses, docs)


def judge_mbpp(responses: Sequence[Sequence[str]], docs: Sequence[Doc]) -> list[list[dict[str, str]]]:
    """For each item the verdict on each sample: a whole program."""
    return _judge(_whole_program, responses, docs)


def _completion(doc: Doc, completion: str) -> Attempt:
    test, name, prompt = doc["test"], doc["entry_point"], doc["prompt"]
    reference = Program(prompt + doc["canonical_solution"], test, name, prompt)
    return Attempt(Program(prompt + completion, test, name, prompt), reference)


def _whole_program(doc: Doc, program: str) -> Attempt:
    test, name = doc["test"], doc["entry_point"]
    return Attempt(Program(program, test, name), Program(doc["code"], test, name))


def _judge(
    attempt: Callable[[Doc, str], Attempt], responses: Sequence[Sequence[str]], docs: Sequence[Doc]
) -> list[list[dict[str, str]]]:
    import torch

    attempts = [attempt(doc, answer) for answers, doc in zip(responses, docs, strict=True) for answer in answers]
    # A worker's threads are its CPUs, and PyTorch waits for the verdicts.
    found = iter(verdicts(attempts, torch.get_num_threads()))
    return [[{"answer": answer, **_told(next(found))} for answer in answers] for answers in responses]


def _told(verdict: Verdict) -> dict[str, str]:
    return {"result": verdict.result, "why": verdict.why}


# ------------------------------------------------------------------------------------------------- scores


def score(doc: Doc, results: Sequence[Sequence[Mapping[str, str]]]) -> dict[str, Any]:
    """`pass@k` of an item from the verdicts on its samples; see `code_scores.scores`."""
    return dict(scores([verdict["result"] for verdict in results[0]]))


def score_with_bleu(doc: Doc, results: Sequence[Sequence[Mapping[str, str]]]) -> dict[str, Any]:
    """As `score`, and the pair that corpus BLEU is made of: the item's own solution and the first sample."""
    return {**score(doc, results), "bleu": (doc["code"], results[0][0]["answer"])}


def bleu_pair(doc: Doc, results: Sequence[str]) -> dict[str, Any]:
    """The pair that corpus BLEU is made of: the item's own solution and the answer."""
    return {"bleu": (doc["code"], results[0])}


def likelihood_of_solution(doc: Doc, results: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    """The log-likelihood of the item's own solution given its prompt, in nats, with the solution's UTF-8 bytes."""
    solution = doc["canonical_solution"] if "canonical_solution" in doc else doc["code"]
    return {"bits_per_byte": (results[0][0], len(solution.encode()))}
