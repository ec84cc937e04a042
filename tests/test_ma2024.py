"""The tasks of Ma et al., and bAbI: their prompts, their scores by a second computation, and their official files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from test_evaluation import write_model

from raycodellm import compare, evaluation
from raycodellm.config import Evaluation, UserError
from raycodellm.evaluation.tasks.names import Places
from raycodellm.tasks.babi import babi
from raycodellm.tasks.ma2024_transfer import c3, dureader

PROBLEM = {
    "question": "Which is a solid?",
    "choices": ["milk", "a brick"],
    "answer": 1,
    "hint": "Look at the shape.",
    "lecture": "A solid keeps its shape.",
    "solution": "A brick keeps\nits shape.",
    "subject": "natural science",
    "grade": "grade2",
    "image": None,
    "split": "test",
}
EKAR = {
    "id": "e1",
    "question": "手套:手",
    "choices": {"label": ["A", "B", "C", "D"], "text": ["袜子:脚", "书:纸", "水:杯", "头:帽子"]},
    "answerKey": "A",
    "explanation": ["手套戴在手上。", "一", "二", "三", "四"],
}
COSQA = {"idx": "cosqa-dev-0", "doc": "python add two numbers", "code": "def add(a, b):\n    return a + b", "label": 1}
LOGIC = {
    "id": 0,
    "question": "谁先到？",
    "A": '"甲"',
    "B": "'乙'",
    "C": "丙",
    "D": "丁",
    "answer": "B",
    "explanation": "",
}
JEC_QA = {
    "query": "问题：下列说法正确的是 选项：(A)前者 (B)后者 (C)都对 (D)都错\n答案：从A到D, 我们应选择",
    "choices": ["(A)前者", "(B)后者", "(C)都对", "(D)都错"],
    "gold": [2],
}
NLI = {"sentence1": "他走了。", "sentence2": "他不在。", "label": "entailment"}
STORY = """1 Mary went to the hall.
2 John went to the attic.
3 Where is Mary? \thall\t1
4 Mary went to the attic.
5 Where is Mary? \tattic\t4
1 John took the pen.
2 Where is John? \tnowhere\t1
"""
C3_TEXT = [
    ["女：你吃饭了吗？", "男：还没有。"],
    [{"question": "谁没吃？", "choice": ["女的", "男的"], "answer": "男的"}],
    "1-1",
]
DUREADER = {
    "data": [
        {
            "title": "",
            "paragraphs": [
                {
                    "context": "这座桥长120米，建于1998年。",
                    "qas": [
                        {"question": "桥建于哪年", "id": "q1", "answers": [{"text": "1998年", "answer_start": 10}]}
                    ],
                }
            ],
        }
    ]
}
NAMES = (
    *(f"scienceqa{kind}{scoring}" for kind in ("", "_oracle") for scoring in ("", "_channel")),
    *(f"ekar{kind}{scoring}" for kind in ("", "_oracle") for scoring in ("", "_channel")),
    *("cosqa", "cosqa_channel", "ceval-valid_logic", "ceval-valid_logic_channel"),
    *("agieval_jec_qa_kd", "agieval_jec_qa_kd_channel", "agieval_jec_qa_ca", "agieval_jec_qa_ca_channel"),
    *("c3", "c3_channel", "ocnli", "ocnli_channel", "cmnli", "cmnli_channel"),
    "babi_qa1",
)
"""Tasks whose answers are compared by likelihood."""


CLUSTERED = ("babi_qa1", "c3", "ocnli_channel")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up items in the layouts of the official files and of the hub."""
    folder = tmp_path_factory.mktemp("data")
    other = {"dev": {**LOGIC, "question": "谁后到？"}, "val": LOGIC}
    lines = {f"ceval/ceval-exam/logic/{split}.jsonl": [row] for split, row in other.items()}
    lines |= {f"hails/agieval-jec-qa-{part}/test.jsonl": [JEC_QA] for part in ("kd", "ca")}
    lines |= {
        f"{name}_public/dev.json": [NLI, {**NLI, "label": "-"}, {**NLI, "label": "neutral"}]
        for name in ("ocnli", "cmnli")
    }
    files = {name: "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows) for name, rows in lines.items()}
    problems = {"7": PROBLEM, "8": {**PROBLEM, "image": "picture.png"}, "9": {**PROBLEM, "split": "train"}}
    trees = {
        "problems.json": problems,
        "ekar_chinese/validation.json": [EKAR, {**EKAR, "answerKey": ""}],
        "cosqa-dev.json": [COSQA, {**COSQA, "label": 0}],
        "m-dev.json": [C3_TEXT],
        "d-dev.json": [C3_TEXT],
        "dureader_robust-data/dev.json": DUREADER,
    }
    files |= {name: json.dumps(tree, ensure_ascii=False) for name, tree in trees.items()}
    files["babi/qa1_single-supporting-fact_test.txt"] = STORY
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), context=400)


@pytest.fixture(scope="module")
def result(data: Path, folder: Path) -> evaluation.EvaluationResult:
    return evaluation.evaluate(folder, Evaluation(tasks=(*NAMES, "dureader_robust"), data=str(data)))


def requests(name: str, data: Path) -> list[list[tuple[str, str]]]:
    """The (context, continuation) pairs of each item, as lm-eval builds them."""
    task = evaluation.load_tasks((name,), 0, Places(None, str(data))).single[name]
    task.build_all_requests()
    found: dict[int, list[tuple[str, str]]] = {}
    for instance in task.instances:
        found.setdefault(instance.doc_id, []).append(instance.args)
    return list(found.values())


# ------------------------------------------------------------------------------------------------- prompts

LECTURE = "A solid keeps its shape.\nLook at the shape.\n"
AFTER = "\nThe question that this answers:"
PROMPTS = {
    "scienceqa": [(f"{LECTURE}Question: Which is a solid?\nAnswer:", f" {choice}") for choice in ("milk", "a brick")],
    "scienceqa_channel": [
        (f"{LECTURE}Answer: {choice}{AFTER}", " Which is a solid?") for choice in ("milk", "a brick")
    ],
    "scienceqa_oracle": [
        (f"{LECTURE}Question: Which is a solid?\nExplanation: A brick keeps its shape.\nAnswer:", f" {choice}")
        for choice in ("milk", "a brick")
    ],
    "scienceqa_oracle_channel": [
        (f"{LECTURE}Explanation: A brick keeps its shape.\nAnswer: {choice}{AFTER}", " Which is a solid?")
        for choice in ("milk", "a brick")
    ],
    "ekar_channel": [
        (f"词语：{choice}\n与上面词语之间关系相同的一组词语：", "手套:手") for choice in EKAR["choices"]["text"]
    ],
    "ekar_oracle": [
        ("词语：手套:手\n解释：手套戴在手上。\n与上面词语之间关系相同的一组词语：", choice)
        for choice in EKAR["choices"]["text"]
    ],
    "cosqa": [
        (
            f"Search query: {COSQA['doc']}\nPython function:\n{COSQA['code']}\nDoes the function answer the query?",
            f" {choice}",
        )
        for choice in ("no", "yes")
    ],
    "cosqa_channel": [
        (f"Search query: {COSQA['doc']}\nA Python function that {said} the query:", f"\n{COSQA['code']}")
        for said in ("does not answer", "answers")
    ],
    "ceval-valid_logic_channel": [(f"答案：{LOGIC[letter]}\n这一答案所对应的题目：", "谁先到？") for letter in "ABCD"],
    "agieval_jec_qa_ca_channel": [
        (f"答案：{choice}\n这一答案所对应的题目：", "下列说法正确的是") for choice in ("前者", "后者", "都对", "都错")
    ],
    "c3_channel": [
        (f"女：你吃饭了吗？\n男：还没有。\n答：{choice}\n这一回答所对应的问题：", "谁没吃？")
        for choice in ("女的", "男的")
    ],
    "ocnli": [("已知：他走了。\n结论：他不在。\n由已知看，结论", choice) for choice in ("无法判断", "正确", "错误")],
    "babi_qa1": [
        ("Passage: Mary went to the hall.\nJohn went to the attic.\nQuestion: Where is Mary?\nAnswer:", f" {choice}")
        for choice in ("attic", "hall", "nowhere")
    ],
}


@pytest.mark.parametrize("name", PROMPTS)
def test_the_prompts_of_an_item_are_those_of_the_documentation(name, data):
    assert requests(name, data)[0] == PROMPTS[name]


def test_items_without_an_answer_and_with_a_picture_are_left_out(result):
    counts = {name: result.metrics[f"{name}/items"] for name in NAMES}
    assert (counts["scienceqa"], counts["ekar"], counts["ocnli"], counts["c3"], counts["babi_qa1"]) == (1, 1, 2, 2, 3)
    assert counts["ceval-valid_logic"] == counts["ceval-valid_logic_channel"] == 1, "C-Eval's dev is not its val"
    assert result.metrics["babi_qa1/chance"] == pytest.approx(1 / 3)
    assert result.metrics["ekar_channel/chance"] == 0.25


def test_questions_on_one_text_are_one_cluster(result):
    clusters = {name: [json.loads(row["attributes"])["cluster"] for row in rows(result, name)] for name in CLUSTERED}
    assert clusters == {"babi_qa1": [0, 0, 1], "c3": [0, 0], "ocnli_channel": [0, 0]}


# ------------------------------------------------------------------------------------------------- scores


class Plain:
    """Likelihoods by transformers alone: one text at a time, without padding, batches and lm-eval."""

    def __init__(self, folder: Path) -> None:
        import transformers

        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def likelihood(self, context: str, text: str) -> tuple[float, int]:
        """Log-likelihood of `text` after `context`, and its number of tokens."""
        import torch

        start = len(self.tokenizer(context).input_ids)
        ids = torch.tensor([self.tokenizer(context + text).input_ids])
        with torch.no_grad():
            logits = torch.log_softmax(self.model(ids).logits[0].double(), -1)
        return sum(float(logits[place - 1, ids[0, place]]) for place in range(start, ids.shape[1])), ids.shape[
            1
        ] - start

    def written(self, prompt: str, num_tokens: int, until: str) -> str:
        import torch

        ids = torch.tensor([self.tokenizer(prompt).input_ids])
        made = self.model.generate(ids, max_new_tokens=num_tokens, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        return self.tokenizer.decode(made, skip_special_tokens=True).split(until)[0].strip()


@pytest.fixture(scope="module")
def plain(folder: Path) -> Plain:
    return Plain(folder)


def rows(result: evaluation.EvaluationResult, name: str) -> list[dict]:
    return [row for row in result.items.to_pylist() if row["task"] == name]


def check_row(row: dict, pairs: list[tuple[str, str]], choices: list[str], plain: Plain, is_channel: bool) -> None:
    found = [plain.likelihood(*pair) for pair in pairs]
    values = [total / tokens if is_channel else total for total, tokens in found]
    assert row["prediction"] == choices[values.index(max(values))]
    assert row["correct"] == (row["prediction"] == row["gold"])
    right = choices.index(row["gold"])
    text = pairs[right][1].removeprefix("\n" if "\ndef" in pairs[right][1] else " ")
    assert row["bits_per_byte"] == pytest.approx(-found[right][0] / math.log(2) / len(text.encode()), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_plain_transformers(name, data, result, plain):
    """Likelihood: the sum over the answer's tokens; channel: the mean over the tokens of the question, or of the code,
    after each answer."""
    is_channel = name.endswith("_channel")
    scored, asked = rows(result, name), requests(name, data)
    assert len(scored) == len(asked) and not any(row["too_long"] for row in scored)
    shown_as_prompts = name.startswith("agieval_jec_qa")
    for row, pairs in zip(scored, asked, strict=True):
        if not is_channel:
            choices = [text.removeprefix(" ") for _, text in pairs]
        elif shown_as_prompts:
            choices = [context for context, _ in pairs]
        else:
            choices = choices_of(name)
        check_row(row, pairs, choices, plain, is_channel)


def choices_of(name: str) -> list[str]:
    if name.startswith("scienceqa"):
        return PROBLEM["choices"]
    listed = {"cosqa_channel": ["no", "yes"], "ceval-valid_logic_channel": ["A", "B", "C", "D"]}
    if name in listed:
        return listed[name]
    if name.startswith("ekar"):
        return EKAR["choices"]["text"]
    return C3_TEXT[1][0]["choice"] if name.startswith("c3") else ["无法判断", "正确", "错误"]


def test_a_task_may_compare_its_choices_by_perplexity(folder, plain, tmp_path):
    """Choices of unlike length, where the sum over tokens and the mean per token prefer different ones."""
    choices = ["a", "a bell and a rope and a lamp and a drum"]
    items = [{"asked": f"Box {number} contains", "choices": choices, "gold": 0} for number in range(6)]
    (tmp_path / "items.jsonl").write_text("".join(f"{json.dumps(item)}\n" for item in items))
    lines = [
        *("task: lengths", "dataset_path: json", "output_type: multiple_choice", "test_split: test"),
        f"dataset_kwargs: {{data_files: {{test: {tmp_path}/items.jsonl}}}}",
        *("doc_to_text: asked", "doc_to_choice: choices", "doc_to_target: gold"),
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]",
        "metadata: {version: 1, compare: perplexity}",
    ]
    (tmp_path / "lengths.yaml").write_text("\n".join(lines))
    found = rows(evaluation.evaluate(folder, Evaluation(tasks=(str(tmp_path / "lengths.yaml"),))), "lengths")
    by_sum = []
    for row in found:
        scored = [plain.likelihood(items[row["item"]]["asked"], f" {choice}") for choice in choices]
        means = [total / tokens for total, tokens in scored]
        assert row["prediction"] == choices[means.index(max(means))]
        by_sum.append(choices[scored.index(max(scored))])
    assert [row["prediction"] for row in found] != by_sum


@pytest.mark.parametrize(
    "name", [pytest.param("scienceqa_generated", marks=pytest.mark.slow), "ekar_generated_channel"]
)
def test_the_choices_are_scored_after_the_rationale_that_the_model_wrote(name, data, folder, plain):
    settings = Evaluation(tasks=(name,), data=str(data))
    row = rows(evaluation.evaluate(folder, settings), name)[0]
    written = json.loads(row["attributes"])["rationale"]
    task = evaluation.load_tasks((name,), 0, Places(None, str(data))).single[name]
    doc = task.eval_docs[0]
    assert written == plain.written(doc["rationale_prompt"], 128, "\n")
    pairs = [(context.replace(doc["rationale"], written), text) for context, text in requests(name, data)[0]]
    assert any(written in context for context, _ in pairs)
    check_row(row, pairs, choices_of(name), plain, name.endswith("_channel"))


def test_a_rationale_that_does_not_fit_into_the_context_is_counted_and_never_cut(data, tmp_path):
    small = write_model(tmp_path, context=150)
    settings = Evaluation(tasks=("ekar_generated", "ekar"), data=str(data))
    with pytest.raises(evaluation.NothingFits, match=r"ekar_generated.*the shortest needs"):
        evaluation.evaluate(small, settings)


# ------------------------------------------------------------------------------------------------- suites


@pytest.mark.parametrize(
    ("scoring", "rationale", "has", "lacks"),
    [
        ("likelihood", "none", {"ceval-valid_logic", "scienceqa", "ekar", "cosqa"}, {"cosqa_channel"}),
        ("channel", "none", {"ceval-valid_logic_channel", "scienceqa_channel", "cosqa_channel"}, {"cosqa"}),
        ("likelihood", "oracle", {"scienceqa_oracle", "ekar_oracle", "cosqa"}, {"scienceqa", "ekar"}),
        ("channel", "generated", {"scienceqa_generated_channel", "cosqa_channel"}, {"scienceqa_generated"}),
    ],
)
def test_the_settings_choose_each_task_of_the_suite_once(scoring, rationale, has, lacks):
    asked = evaluation.asked_tasks(Evaluation(suites=("ma2024",), scoring=scoring, rationale=rationale))
    assert has <= set(asked) and not lacks & set(asked)
    kinds = [name.removesuffix("_channel").removesuffix("_oracle").removesuffix("_generated") for name in asked]
    assert len(kinds) == len(set(kinds)) >= 6


def test_a_scoring_that_no_asked_suite_can_choose_is_refused(folder):
    with pytest.raises(UserError, match=r"evaluation\.scoring: found 'channel'.*ma2024"):
        compare.run([str(folder)], Evaluation(tasks=("boxes",), scoring="channel"), [], None)
    with pytest.raises(UserError, match=r"evaluation\.rationale: found 'oracle'.*ma2024"):
        compare.run([str(folder)], Evaluation(suites=("ma2024-transfer",), rationale="oracle"), [], None)


def test_the_facts_of_cosqa_are_those_of_its_file(test_data):
    labels = [row["label"] for row in json.loads((test_data / "eval" / "cosqa_dev.json").read_text())]
    facts = evaluation.task_facts("cosqa")
    assert (facts.items, facts.majority) == (len(labels), round(max(labels.count(0), labels.count(1)) / len(labels), 4))


# ------------------------------------------------------------------------------------------------- DuReader, bAbI, C3


@pytest.mark.parametrize(
    ("written", "answers", "em", "f1"),
    [
        ("1998年", ["1998年"], 1, 1),
        (" １９９８ 年。", ["1998年"], 1, 1),  # full-width digits, a space and a full stop
        ("建于1998年", ["1998年"], 0, 2 * 2 / (4 + 2)),
        ("年1998", ["1998年"], 0, 2 * 1 / (2 + 2)),  # a run of tokens, so order counts
        ("The Bridge", ["the bridge", "bridge"], 1, 1),
        ("不知道", ["1998年"], 0, 0),
        ("", ["1998年"], 0, 0),
    ],
)
def test_answers_are_scored_by_characters_after_normalising(written, answers, em, f1):
    assert dureader.scores({"answers": answers}, [written]) == {"em": em, "f1": pytest.approx(f1)}


def test_a_generated_answer_has_both_scores(result):
    assert {"dureader_robust/em", "dureader_robust/f1"} <= set(result.metrics)


def test_a_story_of_babi_asks_with_the_statements_before_the_question_alone():
    found = babi.read_release("qa1_x_test.txt", STORY.encode())
    assert [row["answer"] for row in found] == ["hall", "attic", "nowhere"]
    assert found[1]["passage"] == "Mary went to the hall.\nJohn went to the attic.\nMary went to the attic.\n"
    assert found[2]["passage"] == "John took the pen.\n" and found[2]["question"] == "Where is John?"


@pytest.mark.parametrize("text", ["Mary went.\n", "1\n"])
def test_a_damaged_line_of_babi_is_told(text):
    with pytest.raises(ValueError, match="line 1: found"):
        babi.read_release("qa1_x_test.txt", text.encode())


def test_c3_reads_its_official_layout():
    assert c3.read_release("m-dev.json", json.dumps([C3_TEXT]).encode()) == [
        {"context": C3_TEXT[0], "question": "谁没吃？", "choice": ["女的", "男的"], "answer": "男的"}
    ]


def test_a_file_of_babi_is_read_with_its_name_in_the_error(data, folder, tmp_path):
    file = tmp_path / "qa1_single-supporting-fact_test.txt"
    file.write_text("no number\n")
    with pytest.raises(UserError, match=r"qa1_single-supporting-fact_test\.txt: cannot be read.*line 1: found 'no num"):
        evaluation.evaluate(folder, Evaluation(tasks=("babi_qa1",), data=str(tmp_path)))


@pytest.mark.slow
def test_the_real_files_give_all_their_items(test_data):
    places = Places(None, str(test_data / "eval"))
    items = {"cosqa": 604, "cosqa_channel": 604, "scienceqa": 194, "scienceqa_oracle_channel": 194, "babi_qa19": 1000}
    loaded = evaluation.load_tasks(tuple(items), 0, places).single
    assert {name: len(task.eval_docs) for name, task in loaded.items()} == items


@pytest.mark.exhaustive
@pytest.mark.parametrize("group", ["bbh_zeroshot", "bbh_fewshot", "bbh_cot_zeroshot", "bbh_cot_fewshot", "babi_files"])
def test_all_tasks_of_a_group_read_their_files(group, test_data):
    loaded = evaluation.load_tasks((group,), 0, Places(None, str(test_data / "eval"))).single
    num_items = sum(len(task.eval_docs) for task in loaded.values())
    assert (len(loaded), num_items) == ((20, 20_000) if group == "babi_files" else (27, 6511))


def test_the_official_files_of_babi_hold_a_thousand_questions_a_task(test_data):
    for number in range(1, 21):
        file = next((test_data / "eval" / "babi").glob(f"qa{number}_*_test.txt"))
        found = babi.read_release(file.name, file.read_bytes())
        num_stories = sum(line.startswith("1 ") for line in file.read_text().splitlines())
        assert [*babi.stories(row["passage"] for row in found)][-1] + 1 == num_stories
        assert len(found) == 1000 and {row["task"] for row in found} == {number}
        answers = [row["answer"] for row in found]
        facts = evaluation.task_facts(f"babi_qa{number}")
        assert facts.chance == round(1 / len(set(answers)), 4)
        assert facts.majority == max(map(answers.count, set(answers))) / 1000
