"""A folder of copies serves the data sets of the hub, by whatever names and in whatever form people keep them."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycodellm import evaluation
from raycodellm.config import Evaluation, UserError
from raycodellm.evaluation import Places
from raycodellm.evaluation.data import sources as data_sources
from raycodellm.evaluation.data.lookup import DataFolder, WantedData
from raycodellm.evaluation.data.reading import read_data
from raycodellm.evaluation.isolation import quiet
from raycodellm.evaluation.scoring import instances_by_item
from raycodellm.evaluation.tasks.names import NOWHERE, TaskNames

BOOLQ = WantedData("aps/super_glue", "boolq", "boolq", "validation", ("train",))
SCIQ = WantedData("allenai/sciq", None, "sciq", "test", ("train", "validation"))
RECORDS = [{"question": "a", "n": 1}, {"question": "b", "n": 2}]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS)


def found(folder: Path, wanted: WantedData, *names: str) -> list[str]:
    """The files that are found in a folder that has the files `names`."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(LINES)
    data = DataFolder(str(folder)).find(wanted)
    return list(data.files) if data is not None else []


@pytest.mark.parametrize(
    "name",
    [
        "aps/super_glue/boolq/validation-00000-of-00001.parquet",
        "aps/super_glue/boolq/validation/0000.parquet",
        "aps--super_glue/boolq/val.jsonl",
        "datasets--aps--super_glue/snapshots/0123456789abcdef0123456789abcdef01234567/boolq/validation.jsonl",
        "aps___super_glue/boolq/0.0.0/0123456789abcdef0123456789abcdef01234567/super_glue-validation.arrow",
        "super_glue/boolq/validation.json",
        "super_glue_boolq.arrow",
        "SuperGLUE-BoolQ.jsonl.gz",
        "boolq/dev.csv",
        "somewhere/deep/boolq.jsonl",
        "boolq_validation.jsonl",
        "BoolQ.dev.jsonl",
        "boolq_sample.jsonl",
        "super_glue/validation.jsonl",
    ],
)
def test_a_data_set_is_found_under_the_names_that_people_give_it(name: str, tmp_path: Path) -> None:
    others = ("super_glue/cb/validation.jsonl", "piqa.jsonl", "train.jsonl", "notes.txt", ".cache/boolq.jsonl")
    assert found(tmp_path, BOOLQ, name, *others) == [name]


def test_the_hubs_layout_comes_before_a_file_of_the_same_name_and_all_shards_are_read(tmp_path: Path) -> None:
    shards = [f"allenai/sciq/data/test-0000{number}-of-00002.jsonl" for number in range(2)]
    assert found(tmp_path, SCIQ, "sciq.jsonl", *shards, "allenai/sciq/data/train.jsonl")[:2] == shards


def test_another_configuration_is_never_taken(tmp_path: Path) -> None:
    socratic = WantedData("openai/gsm8k", "socratic", "gsm8k_socratic")
    assert found(tmp_path, socratic, "openai/gsm8k/main/test.jsonl", "gsm8k/main.jsonl", "main.jsonl") == []
    assert found(tmp_path, WantedData("openai/gsm8k", "main", "gsm8k"), "x.jsonl") == ["openai/gsm8k/main/test.jsonl"]


def test_the_card_of_a_data_set_says_which_files_a_configuration_has(tmp_path: Path) -> None:
    card = "---\nconfigs:\n- config_name: a\n  data_files:\n  - split: test\n    path: parts/one*\n- config_name: b\n"
    (tmp_path / "o/n/parts").mkdir(parents=True)
    (tmp_path / "o/n/README.md").write_text(card + "---\n# n\n")
    assert found(tmp_path, WantedData("o/n", "a", "t"), "o/n/parts/one-1.jsonl", "o/n/parts/two.jsonl") == [
        "o/n/parts/one-1.jsonl"
    ]
    # `no` is Norwegian, an impossible date is no error, and lines may end as on Windows.
    card = card.replace("---\n", "---\ndate: 2024-13-45\n", 1).replace("config_name: a", "config_name: no")
    (tmp_path / "o/n/README.md").write_bytes((card + "---\n").replace("\n", "\r\n").encode())
    assert found(tmp_path, WantedData("o/n", "no", "t")) == ["o/n/parts/one-1.jsonl"]


def test_files_that_a_task_asks_for_by_address_are_found_by_name_with_the_splits_it_says(tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(
        "task: far\ndataset_path: json\ntest_split: test\ntraining_split: train\ndoc_to_text: question\n"
        "dataset_kwargs: {data_files: {test: https://x.org/a/far_dev.jsonl, train: https://x.org/a/far_test.jsonl}}\n"
        "doc_to_target: n\n"
    )
    for name, lines in (("far_dev.jsonl", LINES), ("far_test.jsonl", LINES * 2)):
        (tmp_path / name).write_text(lines)
    task = evaluation.load_tasks((str(tmp_path / "task.yaml"),), 0, Places(None, str(tmp_path))).single["far"]
    assert (len(task.eval_docs), len(task.training_docs())) == (2, 4)
    # A changed copy is read again by the same process.
    (tmp_path / "far_dev.jsonl").write_text(LINES * 3)
    task = evaluation.load_tasks((str(tmp_path / "task.yaml"),), 0, Places(None, str(tmp_path))).single["far"]
    assert len(task.eval_docs) == 6


def test_what_datasets_saves_to_disk_is_found_with_all_its_splits(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_list(RECORDS)
    datasets.DatasetDict({"test": rows, "train": rows.select([0])}).save_to_disk(tmp_path / "allenai/sciq")
    data = DataFolder(str(tmp_path)).find(SCIQ)
    assert data is not None
    assert {split: len(part) for split, part in read_data(data, SCIQ).items()} == {
        "test": 2,
        "train": 1,
        "validation": 0,
    }


def test_a_task_that_is_a_class_reads_copies_too(tmp_path: Path) -> None:
    (tmp_path / "based-fda.jsonl").write_text('{"doc_id": "1", "text": "a", "value": "b", "key": "c"}\n')
    task = evaluation.load_tasks(("fda",), 0, Places(None, str(tmp_path))).single["fda"]
    assert [doc["value"] for doc in task.eval_docs] == ["b"]


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "real/deep/sciq.jsonl").write_text(LINES)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/linked").symlink_to(tmp_path / "real")
    (tmp_path / "data/boolq.jsonl").symlink_to(tmp_path / "real/deep/sciq.jsonl")
    assert found(tmp_path / "data", SCIQ) == ["linked/deep/sciq.jsonl"]
    assert found(tmp_path / "data", BOOLQ) == ["boolq.jsonl"]


def test_a_split_that_is_evaluated_and_missing_is_refused_with_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sciq evaluates the split 'test'.*sciq_train\.jsonl is of the split train"):
        found(tmp_path, SCIQ, "sciq_train.jsonl")


def write_all(folder: Path) -> dict[str, str]:
    """Files with RECORDS in all forms."""
    table = pa.Table.from_pylist(RECORDS)
    pq.write_table(table, folder / "a.parquet")
    with pa.ipc.new_stream(folder / "b.arrow", table.schema) as writer:
        writer.write_table(table)
    with pa.ipc.new_file(folder / "c.arrow", table.schema) as writer:
        writer.write_table(table)
    (folder / "d.jsonl").write_text(LINES)
    (folder / "e.jsonl.gz").write_bytes(gzip.compress(LINES.encode()))
    (folder / "f.json").write_text(json.dumps(RECORDS))
    (folder / "g.json").write_text(json.dumps({"canary": "no", "examples": RECORDS}))
    (folder / "h.csv").write_text("question,n\na,1\nb,2\n")
    (folder / "i.tsv").write_text("question\tn\na\t1\nb\t2\n")
    (folder / "j.json").write_text(json.dumps({"question": ["a", "b"], "n": [1, 2]}))
    (folder / "k.json").write_text(json.dumps({"test": RECORDS, "train": RECORDS[:1]}))
    return {path.name.partition(".")[0]: path.name for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("letter", "abcdefghijk")
def test_every_form_gives_the_same_items(letter: str, tmp_path: Path) -> None:
    assert letter in write_all(tmp_path)
    wanted = WantedData(letter, None, "t", "test", ("train",))
    data = DataFolder(str(tmp_path)).find(wanted)
    assert data is not None
    splits = read_data(data, wanted)
    assert splits["test"].to_list() == RECORDS and len(splits["train"]) == (1 if letter == "k" else 0)


def test_records_by_id_keep_it_and_records_that_name_their_split_go_there(tmp_path: Path) -> None:
    tree = {"7": {"text": "x", "split": "train"}, "8": {"text": "y", "split": "val", "more": 1}}
    (tmp_path / "problems.json").write_text(json.dumps(tree))
    wanted = WantedData("owner/set", None, "t", "validation", ("train",), files=("problems.json",))
    data = DataFolder(str(tmp_path)).find(wanted)
    assert data is not None
    splits = read_data(data, wanted)
    assert splits["validation"].to_list() == [{"id": "8", "text": "y", "split": "val", "more": 1}]
    assert splits["train"]["id"] == ["7"]


def test_columns_of_official_releases_become_those_of_the_hub(tmp_path: Path) -> None:
    sentences = [f"InputSentence{number}" for number in range(1, 5)]
    endings = ["RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2"]
    names = ["InputStoryid", *sentences, *endings, "AnswerRightEnding"]
    (tmp_path / "story_cloze_2018.csv").write_text(f"{','.join(names)}\nid,a,b,c,d,e,f,2\n")
    task = evaluation.load_tasks(("storycloze_2018",), 0, Places(None, str(tmp_path))).single["storycloze_2018"]
    (doc,) = task.eval_docs
    assert task.doc_to_text(doc) == "a b c d" and task.doc_to_choice(doc) == ["e", "f"]
    assert int(task.doc_to_target(doc)) == 1


def test_a_file_that_is_no_data_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "sciq.parquet").write_text("no parquet")
    (tmp_path / "boolq.json").write_text('{"a": 1, "b": [2]}')
    for wanted, said in ((SCIQ, r"sciq\.parquet: cannot be read as parquet"), (BOOLQ, r"boolq\.json.*no list of rec")):
        data = DataFolder(str(tmp_path)).find(wanted)
        assert data is not None
        with pytest.raises(UserError, match=said):
            read_data(data, wanted)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.json", "[" * 100_000, "cannot be read as json: nested too deep"),
        ("t.json", f'[{{"n": {10**30}}}]', "cannot be read as json: a number is too large"),
        ("t.json", "3", "holds int, not a list of records"),
        (
            "t_test.json",
            '{"train": [{"n": 1}], "test": [{"n": 2}]}',
            "after the split 'test' and holds the split 'train'",
        ),
        ("t.csv", "n\n\xff", "the column 'n' is no UTF-8"),
        ("quac_v0.2.json", '{"data": [{"title": "x"}]}', r"read_release: a part has no 'paragraphs'"),
        (
            "super_glue.json",
            '[{"question": "a", "passage": "b", "answer": "yes"}]',
            "columns are not those of super_glue",
        ),
    ],
)
def test_content_that_is_no_data_is_refused_in_one_line(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    release = {"files": (name,), "reader": "raycodellm.tasks.aryabumi2024.quac.read_release"} if "quac" in name else {}
    wanted = WantedData("super_glue" if "glue" in name else "t", None, "t", **release)
    data = DataFolder(str(tmp_path)).find(wanted)
    assert data is not None
    with pytest.raises(UserError, match=said):
        read_data(data, wanted)


def test_times_and_dates_in_a_csv_file_are_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("time,day,n\n12:30,2020-01-02,1\n,2021-01-02,2\n")
    wanted = WantedData("t", None, "t")
    data = DataFolder(str(tmp_path)).find(wanted)
    assert data is not None
    rows = read_data(data, wanted)["test"].to_list()
    assert rows == [{"time": "12:30", "day": "2020-01-02", "n": 1}, {"time": "", "day": "2021-01-02", "n": 2}]


def test_data_that_lies_nowhere_is_refused_with_where_it_was_looked_for(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(data_sources, "hub_silence", lambda: "no answer")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with pytest.raises(UserError, match=r"no data for sciq: not in .* as allenai/sciq, sciq;.*datasets;.*no answer"):
        evaluation.task_content("sciq", Places(None, str(tmp_path)))
    with pytest.raises(UserError, match=r"no data for sciq, piqa: evaluation\.data names no folder; not in"):
        evaluation.find_data(["sciq", "piqa"])
    (tmp_path / "hf/datasets/allenai___sciq").mkdir(parents=True)
    assert evaluation.task_content("sciq")[-1] == ["hub", "allenai/sciq", None]


@pytest.mark.parametrize(
    ("changed", "old", "new", "text"),
    [
        ("task.yaml", "{{answer}}", "not {{answer}}", "Who? not me"),
        ("base", "words.question", "words.asked", "Asked: Who? me"),
        ("words.py", "'Who?'", "'Who is there?'", "Who is there? me"),
        ("rows.jsonl", "me", "nobody", "Who? nobody"),
    ],
)
def test_a_task_whose_files_change_is_read_again_by_the_same_process(
    tmp_path: Path, changed: str, old: str, new: str, text: str
) -> None:
    """Else a notebook keeps the scores of the old items under the identity of the new ones."""
    (tmp_path / "task.yaml").write_text("include: base\ntask: mine\ndoc_to_target: '{{answer}}'\n")
    data = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\ntest_split: test\n"
    (tmp_path / "base").write_text(f"{data}output_type: loglikelihood\ndoc_to_text: !function words.question\n")
    (tmp_path / "words.py").write_text("question = lambda doc: 'Who?'\nasked = lambda doc: 'Asked: Who?'\n")
    (tmp_path / "rows.jsonl").write_text('{"answer": "me"}\n')
    task, file = str(tmp_path / "task.yaml"), tmp_path / changed
    assert evaluation.item_texts([task]) == {"mine": ["Who? me"]}
    before = evaluation.task_content(task)
    file.write_text(file.read_text().replace(old, new))
    assert evaluation.task_content(task) != before and evaluation.item_texts([task]) == {"mine": [text]}


def test_a_task_that_names_a_state_of_its_data_is_identified_by_that_states_commit(monkeypatch) -> None:
    commits = {"allenai/quac@refs/convert/parquet": "1" * 40, "allenai/sciq": "2" * 40}
    monkeypatch.setattr(data_sources, "hub_silence", lambda: "")
    monkeypatch.setattr(data_sources.hub_commits, "commit", lambda name, files, kind: commits[name])
    assert evaluation.task_content("quac")[-1] == ["hub", "allenai/quac", "1" * 40]
    assert evaluation.task_content("sciq")[-1] == ["hub", "allenai/sciq", "2" * 40]


def test_copied_data_enters_a_tasks_identity_by_content_wherever_it_lies(tmp_path: Path) -> None:
    for name, lines in (("a/sciq.jsonl", LINES), ("b/allenai/sciq/test.jsonl", LINES), ("c/sciq.jsonl", LINES * 2)):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(lines)
    one, same, other = (evaluation.task_content("sciq", Places(None, str(tmp_path / name))) for name in "abc")
    assert one[-1][2][0][1] == same[-1][2][0][1] and one != other


def test_a_number_of_examples_that_a_tasks_file_names_in_vain_is_said(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text("task: two\nnum_fewshot: 2\noutput_type: generate_until\n")
    (tmp_path / "none.yaml").write_text("include: two.yaml\ntask: none\nnum_fewshot: 0\n")
    (tmp_path / "also_two.yaml").write_text("include: two.yaml\ntask: also_two\n")
    names = ("two", "none", "also_two", str(tmp_path / "two.yaml"), "boxes")

    def found(few_shot: int | None) -> list[str]:
        lines = evaluation.overruled_lines(Evaluation(tasks=names, include=str(tmp_path), few_shot=few_shot))
        return [line.rpartition(", as evaluation")[0] for line in lines]

    said = "0 examples before each item"
    assert found(0) == [f"two: {said}", f"also_two: {said}", f"{tmp_path / 'two.yaml'}: {said}"] and found(2) == []
    assert found(None) == []


@pytest.mark.parametrize("few_shot, shown", [(None, 2), (0, 0), (1, 1)])
def test_no_number_of_examples_leaves_each_task_its_own(tmp_path: Path, few_shot: int | None, shown: int) -> None:
    rows = [{"q": f"question {number}", "a": f"answer {number}"} for number in range(5)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "two.yaml").write_text(
        f"task: two\nnum_fewshot: 2\noutput_type: generate_until\ndoc_to_text: q\ndoc_to_target: a\n"
        f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/items.jsonl}}}}\ntest_split: test\n"
    )
    with quiet():
        loaded = evaluation.load_tasks((str(tmp_path / "two.yaml"),), few_shot).single["two"]
        prompt = instances_by_item(loaded, 1)[0][0].args[0]
    assert prompt.count("answer") == shown


def test_data_of_the_hub_is_read_at_the_commit_that_the_driver_found(monkeypatch) -> None:
    commits = {"allenai/quac@refs/convert/parquet": "1" * 40, "allenai/sciq": "2" * 40}
    monkeypatch.setattr(data_sources, "hub_silence", lambda: "")
    monkeypatch.setattr(data_sources.hub_commits, "commit", lambda name, files, kind: commits[name])
    assert evaluation.data_commits(["quac", "sciq"], NOWHERE) == commits
    [newer] = evaluation.find_data(["sciq"])
    asked: list[tuple[str, str | None]] = []
    monkeypatch.setattr(datasets, "load_dataset", lambda path, name=None, **kwargs: asked.append((path, kwargs)))
    with data_sources.given_to_lm_eval([data_sources.pinned(newer, {"allenai/sciq": "3" * 40})]):
        datasets.load_dataset(path="allenai/sciq", name=None)
        datasets.load_dataset("allenai/other")
    assert asked == [("allenai/sciq", {"revision": "3" * 40}), ("allenai/other", {})]
    cached = dataclasses.replace(newer, at="cache")
    with pytest.raises(UserError, match=r"has allenai/sciq at commit 222222222222, and .* of 333333333333"):
        data_sources.pinned(cached, {"allenai/sciq": "3" * 40})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("task: a\ninclude: [3]\n", "3: cannot be read as a task"),
        ("task: a\ntag: {x: y}\ndate: 2024-13-45\n", "cannot be read as a task: month must be in"),
        ("task: " + "[" * 50_000 + "]" * 50_000, "lists and mappings are over 200 deep"),
        ("- " * 50_000, "lists and mappings are over 200 deep"),
        ("task: &a [*a]", "the alias \\*a stands inside"),
    ],
)
def test_a_yaml_file_that_is_no_task_ends_no_process(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "odd.yaml").write_text(content)
    (tmp_path / "fine.yaml").write_text("task: fine\n")
    assert "fine" in TaskNames(str(tmp_path)).included
    with pytest.raises(UserError, match=said):
        evaluation.task_content(str(tmp_path / "odd.yaml"))


def test_a_task_of_a_users_folder_that_cannot_be_loaded_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("task: mine\ndataset_path: json\noutput_type: none\n")
    for name in ("mine", str(tmp_path / "mine.yaml")):
        with pytest.raises(UserError, match=r"mine.*cannot be loaded as an lm-eval task"), quiet():
            evaluation.load_tasks((name,), None, Places(str(tmp_path)))


def test_the_tasks_of_a_users_folder_go_by_name_and_come_before_lm_evals(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(LINES)
    text = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/data.jsonl}}}}\ntest_split: test\n"
    text += "doc_to_text: '{{question}}'\ndoc_to_target: '{{n}}'\noutput_type: loglikelihood\n"
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/mine.yaml").write_text(f"task: sciq\n{text}")
    (tmp_path / "tasks/group.yaml").write_text("group: both\ntask: [sciq, other]\n")
    (tmp_path / "tasks/other.yaml").write_text(f"task: other\n{text}")
    places = Places(str(tmp_path / "tasks"), None)
    loaded = evaluation.load_tasks(("both",), 0, places)
    assert {name: [*tasks] for name, tasks in loaded.by_name.items()} == {"both": ["sciq", "other"]}
    assert [task.eval_docs.to_list() for task in loaded.single.values()] == [RECORDS, RECORDS]
    before = evaluation.task_content("both", places)
    (tmp_path / "tasks/mine.yaml").write_text(f"task: sciq\n{text}# changed\n")
    assert evaluation.task_content("both", places) != before
    (tmp_path / "tasks/boxes.yaml").write_text(f"task: boxes\n{text}")
    with pytest.raises(UserError, match=r"evaluation\.include.*'boxes' of its own"):
        evaluation.check_tasks(["both"], places)


REAL = {
    "arc_easy": 570,
    "boolq": 3270,
    "nq_open": 3610,
    "piqa": 1838,
    "sciq": 1000,
    "social_iqa": 1954,
    "cb": 56,
    "copa": 100,
    "winogrande": 1267,
    "gsm8k": 1319,
    "triviaqa": 3000,
    "bbh_zeroshot_snarks": 178,
    "bbh_cot_fewshot_word_sorting": 250,
}


@pytest.mark.slow
def test_the_real_files_serve_lm_evals_tasks_of_their_data_sets(test_data: Path) -> None:
    loaded = evaluation.load_tasks(tuple(REAL), 0, Places(None, str(test_data / "eval"))).single
    assert {name: len(task.eval_docs) for name, task in loaded.items()} == REAL
    assert (
        loaded["triviaqa"].doc_to_text(loaded["triviaqa"].eval_docs[0]).startswith("Question: Brunswick, Lancastrian")
    )
    assert [loaded["boolq"].doc_to_target(doc) for doc in list(loaded["boolq"].eval_docs)[:4]].count(0) >= 1
    with pytest.raises(UserError, match=r"gsm8k shows 5 solved examples.*no file of the split"):
        evaluation.load_tasks(("gsm8k",), 5, Places(None, str(test_data / "eval")))
