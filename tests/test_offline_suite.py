"""The graded tasks of the suite `offline`: right by an independent reading of their text, and not to be guessed."""

from __future__ import annotations

import collections
import contextlib
import functools
import importlib
import io
import itertools
import re
from collections.abc import Callable

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from raycodellm.tasks import FOLDER, TASKS
from raycodellm.tasks.item import SPLITS, Item
from raycodellm.tasks.words import NOUNS

NEW = ("brackets", "induction", "mental_arithmetic", "sorting", "variables_code", "variables_prose")
SEEDS = st.integers(0, 2**32)


def drawn(task: str, split: str, n: int, seed: int = 1) -> list:
    return list(itertools.islice(importlib.import_module(f"raycodellm.tasks.{task}.task").generate(split, seed), n))


def words(text: str) -> list[str]:
    return re.findall(r"</?\w+>|[()\[\]{}<>]|\w+", text)


def solve_brackets(question: str) -> str:
    opened = []
    text = re.sub(r"^[A-Z][a-z ]+:|^The text is|\. (?:Next|The next|To be).*$", "", question)
    pairs = {"(": ")", "[": "]", "{": "}", "<": ">"}
    for token in re.findall(r"(?:open|close) \w+|</?\w+>|[()\[\]{}<>]", text):
        if token.startswith("open "):
            opened.append(token.replace("open", "close"))
        elif re.fullmatch(r"<\w+>", token):
            opened.append(token.replace("<", "</"))
        elif token in pairs:
            opened.append(pairs[token])
        else:
            assert token == opened.pop(), question
    return opened[-1]


def solve_induction(question: str) -> str:
    told, again = re.split(
        r"The row again:|They left in the same order:|then once more|Now say it again from here:|\.{3}", question
    )
    row = re.sub(r"^(?:The row is|They came in this order:|Say)|\b(?:and so on|then)\b|[,.-]", " ", told).split()
    again = [word for word in words(again) if word != "then"]
    ends = range(len(again), len(row))
    (place,) = (end for end in ends if row[end - len(again) : end] == again)
    return row[place]


def solve_mental_arithmetic(question: str) -> str:
    signs = r"(-|minus|taken away|removes|sells|gives)"
    if re.search(r"[+-]|plus|minus", question):
        return str(eval("".join(re.findall(r"\d+|[+-]", question.replace("plus", "+").replace("minus", "-")))))
    first, *steps = [sentence for sentence in question.split(". ") if re.search(r"\d", sentence)]
    number = int(re.search(r"\d+", first)[0])
    for step in steps:
        number += int(re.search(r"\d+", step)[0]) * (-1 if re.search(signs, step) else 1)
    return str(number)


def solve_sorting(question: str) -> str:
    names = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
    told, asked = question.split(". ")
    things = words(re.sub(r"^(?:Here are|The list|Sort|We have)", "", told))
    is_falling = re.search(r"large to small|falling|reversed|z to a", asked) is not None
    place = next(index for index, name in enumerate(names.split()) if f"the {name} " in asked)
    return sorted(things, key=lambda thing: (int(thing) if thing.isdigit() else 0, thing), reverse=is_falling)[place]


def solve_variables_code(question: str) -> str:
    asked = re.search(r'print\((?:d\["(\w+)"\]|(\w+))\)  # prints$|# The value of (\w+) is$', question)
    name = next(filter(None, asked.groups()))
    code = question.rpartition("\n")[0] + f"\nprint(d['{name}'] if 'd' in dir() else {name})"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    return printed.getvalue().strip()


def solve_variables_prose(question: str) -> str:
    *told, asked = question.split(". ")
    numbers: dict[str, str] = {}
    for sentence in told:
        named = [word for word in words(sentence) if word in NOUNS]
        if number := re.search(r"\d+", sentence):
            numbers[named[0]] = number[0]
        elif re.search(r"swap|trade|exchanged|change places", sentence):
            a, b = named
            numbers[a], numbers[b] = numbers[b], numbers[a]
        elif "is copied to" in sentence:
            numbers[named[1]] = numbers[named[0]]
        else:
            numbers[named[0]] = numbers[named[1]]
    return numbers[next(word for word in words(asked) if word in numbers)]


@pytest.mark.parametrize("task", NEW)
@given(seed=SEEDS, split=st.sampled_from(list(SPLITS)))
def test_an_item_has_one_right_choice_by_working_it_out_from_its_text_alone(task, seed, split):
    solve: Callable[[str], str] = globals()[f"solve_{task}"]
    for item, _ in drawn(task, split, 5, seed):
        answer = solve(item.question)
        assert [choice for choice in item.choices if choice == f"{answer}."] == [item.answer], item
        assert len(set(item.choices)) == len(item.choices) >= 2


SOLUTION = {  # what two splits must not share: the solution's part that makes an item another one
    "brackets": lambda text: importlib.import_module("raycodellm.tasks.brackets.task").structure(text),
    "induction": lambda row: (row.words[row.answer - 1], row.words[row.answer]),
    "mental_arithmetic": lambda terms: tuple(sorted(terms)),
    "sorting": lambda asked: asked.structure,
    "variables_code": lambda program: (len(program.steps), program.structure),
    "variables_prose": lambda program: (len(program.steps), program.structure),
}


@pytest.mark.parametrize(
    "task",
    [
        *("mental_arithmetic", "sorting", "variables_code"),
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("brackets", "induction", "variables_prose")),
    ],
)
def test_no_structure_is_in_two_splits(task):
    splits = [{SOLUTION[task](solution) for _, solution in drawn(task, split, 800)} for split in SPLITS]
    assert all(splits) and not any(a & b for a, b in itertools.combinations(splits, 2))


@pytest.mark.slow
def test_training_items_never_end_where_a_level_has_few_questions():
    sums = [item for item, _ in drawn("mental_arithmetic", "validation", 12_000) if item.part == "1_digit_2_numbers"]
    assert len({item.question for item in sums}) < len(sums) == 2_400


def test_item_i_of_both_variable_tasks_is_the_same_program_told_in_words_and_as_code():
    for split in SPLITS:
        pairs = zip(drawn("variables_prose", split, 200), drawn("variables_code", split, 200), strict=True)
        for (prose, told), (code, written) in pairs:
            assert told == written and prose.choices == code.choices and prose.gold == code.gold
            assert prose.part == code.part and prose.question != code.question


def by_score(score: Callable[[str, Item], float]) -> Callable[[Item], float]:
    """The chance of being right by taking a choice of the highest score."""

    def right(item: Item) -> float:
        scores = [score(choice, item) for choice in item.choices]
        best = [index for index, one in enumerate(scores) if one == max(scores)]
        return (item.gold in best) / len(best)

    return right


def number(choice: str) -> float:
    return int(found[0]) if (found := re.search(r"\d+", choice)) else 0


def in_the_middle(choice: str, item: Item) -> float:
    return -abs(number(choice) - sorted(map(number, item.choices))[len(item.choices) // 2])


def shared(choice: str, item: Item) -> float:
    """Words that the choice shares with the others."""
    own = set(words(choice)) - {"the", "and"}
    return sum(len(own & set(words(other))) / max(1, len(own)) for other in item.choices if other != choice)


BLIND = {  # shortcuts that look at the choices alone
    "first": lambda choice, item: -item.choices.index(choice),
    "last": lambda choice, item: item.choices.index(choice),
    "short": lambda choice, item: -len(choice),
    "long": lambda choice, item: len(choice),
    "first in the alphabet": lambda choice, item: -sorted(item.choices).index(choice),
    "last in the alphabet": lambda choice, item: sorted(item.choices).index(choice),
    "large": lambda choice, item: number(choice),
    "small": lambda choice, item: -number(choice),
    "middle": in_the_middle,
    "shares most": shared,
    "shares least": lambda choice, item: -shared(choice, item),
}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_looking_at_the_choices_alone_gains_nothing(task):
    items = task.evaluated_items
    chance = sum(1 / len(item.choices) for item in items) / len(items)
    found = {name: sum(map(by_score(score), items)) / len(items) for name, score in BLIND.items()}
    assert max(found.values()) < chance + 0.05, found  # 0.05: 3.5 standard errors of a thousand items


def mentions(choice: str, item: Item) -> list[int]:
    places = mentioned(item.question)
    own = set(words(choice)) - {"the", "and", "close"}
    own |= {word.replace("</", "<") for word in own}
    return [place for word in own for place in places.get(word, [])]


@functools.lru_cache(maxsize=1)
def mentioned(question: str) -> dict[str, list[int]]:
    """The places of each word of the question."""
    places: dict[str, list[int]] = {}
    for place, word in enumerate(words(question)):
        places.setdefault(word, []).append(place)
    return places


IN_THE_TEXT = {  # shortcuts that look for the choices in the question, without reading it
    "often": lambda choice, item: len(mentions(choice, item)),
    "seldom": lambda choice, item: -len(mentions(choice, item)),
    "begins first": lambda choice, item: -min(mentions(choice, item), default=10**6),
    "begins last": lambda choice, item: min(mentions(choice, item), default=-1),
    "ends first": lambda choice, item: -max(mentions(choice, item), default=10**6),
    "ends last": lambda choice, item: max(mentions(choice, item), default=-1),
}
EASY = {"trivial", "14_brackets", "0_steps"}
"""Parts that ask for what the text states, or for the bracket that was opened last."""


def parts_of(item: Item) -> list[str]:
    return [item.part] if isinstance(item.part, str) else item.part


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_looking_for_the_choices_in_the_text_without_reading_it_gains_little(task):
    hard = [item for item in task.evaluated_items if not EASY & set(parts_of(item))]
    chance = sum(1 / len(item.choices) for item in hard) / len(hard)
    found = {name: sum(map(by_score(score), hard)) / len(hard) for name, score in IN_THE_TEXT.items()}
    assert max(found.values()) < chance + 0.1, found


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_answers_that_were_right_in_training_are_no_more_often_right_in_the_test(task):
    """A model that has learned from the training split which answers are frequent, and does not read the question."""
    right, shown = collections.Counter(), collections.Counter()
    for item, _ in itertools.islice(task.generate("train", 0), 600):
        right[item.answer] += 1
        shown.update(item.choices)
    items = task.evaluated_items
    chance = sum(1 / len(item.choices) for item in items) / len(items)
    learned = by_score(lambda choice, item: (right[choice] + chance * 5) / (shown[choice] + 5))
    assert sum(map(learned, items)) / len(items) < chance + 0.05


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_part_has_its_share_of_the_first_items(task):
    """A limit of evaluated items, as in the quickstart, leaves every level of difficulty in."""
    counts = collections.Counter()
    for item in task.evaluated_items[:60]:
        counts.update(parts_of(item))
    assert set(counts) == set(task.parts) and min(counts.values()) >= 10


def test_the_suite_lists_every_generated_task_with_its_chance_and_number_of_items():
    listed = {one["task"]: one for one in yaml.safe_load((FOLDER / "suites/offline.yaml").read_text())["tasks"]}
    assert list(listed) == [task.name for task in TASKS], "list the task in tasks/suites/offline.yaml, by its name"
    for task in TASKS:
        items = task.evaluated_items
        assert listed[task.name]["items"] == len(items)
        assert listed[task.name]["chance"] == pytest.approx(
            sum(1 / len(item.choices) for item in items) / len(items), abs=1e-3
        )
