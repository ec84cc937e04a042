"""The generated tasks: right by an independent reading of their text, and nothing trained on is evaluated."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import re
import subprocess
import sys
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from raycodellm.tasks import BUILTIN, FOLDER, TASKS, training_examples
from raycodellm.tasks.boxes import task as boxes
from raycodellm.tasks.boxes import world
from raycodellm.tasks.item import SPLITS
from raycodellm.tasks.logical_deduction import stories
from raycodellm.tasks.logical_deduction import task as logical_deduction
from raycodellm.tasks.logical_deduction.clues import holds as is_true
from raycodellm.tasks.logical_deduction.clues import structure_split
from raycodellm.tasks.words import NOUNS


def first(module, split: str, n: int, seed: int | None = None) -> list:
    return list(itertools.islice(module.generate(split, *([] if seed is None else [seed])), n))


def solutions(clues: tuple, size: int) -> list[tuple[int, ...]]:
    """Every order in which all clues are true, as the place of each thing."""
    return [places for places in itertools.permutations(range(size)) if all(is_true(clue, places) for clue in clues)]


def objects(text: str) -> set[str]:
    return set() if text == "nothing" else {part.removeprefix("the ") for part in text.split(" and ")}


def replay(question: str) -> tuple[set[str], int]:
    """The content of the asked box and how many sentences changed it, read off the text alone."""
    *told, query = question.split(". ")
    asked = int(re.search(r"Box (\d) contains$", query)[1])
    described = re.findall(r"Box \d contains ([^,]+)", told[0])
    state, changes = [objects(text) for text in described], 0
    for sentence in told[1:]:
        before = set(state[asked])
        things = objects(re.search(r"the \w+(?: and the \w+)*", sentence)[0])
        source = re.search(r"(?i:from|out of) Box (\d)", sentence)
        target = re.search(r"(?i:to|into) Box (\d)|^Box (\d) gets", sentence)
        if source:
            assert things <= state[int(source[1])], "only what is in a box is taken out of it"
            state[int(source[1])] -= things
        elif any(things & box for box in state):
            raise AssertionError("what is put into a box was in none")
        if target:
            state[int(target[1] or target[2])] |= things
            assert len(state[int(target[1] or target[2])]) <= boxes.MAX_OBJECTS
        changes += state[asked] != before
    return state[asked], changes


@given(seed=st.integers(0, 2**32), split=st.sampled_from(["train", "validation", "test"]))
def test_a_box_item_has_exactly_one_right_choice_by_replaying_its_text(seed, split):
    for (item, scenario), drawn in zip(first(boxes, split, 6, seed), boxes.WORLDS, strict=True):
        content, changes = replay(item.question)
        choices = [objects(choice.removesuffix(".")) for choice in item.choices]
        assert [index for index, choice in enumerate(choices) if choice == content] == [item.gold]
        assert len({frozenset(choice) for choice in choices}) == 5
        assert item.attributes["num_operations"] == changes
        assert item.part == ["nontrivial" if changes else "trivial", f"{len(scenario.initial)}_boxes"]
        assert world.signature(scenario.initial) in drawn.signatures(split)


@pytest.mark.parametrize("num_boxes", [2, 7])
def test_the_box_splits_partition_all_signatures(num_boxes):
    splits = [world.World(num_boxes=num_boxes).signatures(name) for name in ("train", "validation", "test")]
    assert sum(map(len, splits)) == len(frozenset().union(*splits)) == 4**num_boxes
    assert all(abs(len(split) - share * 4**num_boxes) < 1 for split, share in zip(splits, SPLITS.values(), strict=True))


def test_box_items_spread_over_the_number_of_operations_and_the_positions():
    items = boxes.TASK.evaluated_items
    share = {n: sum(item.attributes["num_operations"] == n for item in items) / len(items) for n in range(7)}
    assert all(abs(share[n] - planned) < 0.05 for n, planned in boxes.OPERATION_SHARES.items())
    assert len(NOUNS) == len(set(NOUNS)) == 100
    assert not [pair for pair in itertools.permutations(NOUNS, 2) if pair[0] in pair[1]]


def test_every_box_item_offers_the_empty_box_and_contents_of_each_size():
    for item in boxes.TASK.evaluated_items:
        assert {len(objects(choice.removesuffix("."))) for choice in item.choices} == {0, 1, 2, 3}


def test_a_world_of_other_size_follows_the_same_rules():
    small = world.World(num_boxes=3, max_objects=2, num_operations=20, nouns=("pen", "cup", "hat", "key"))
    scenario = small.draw_scenario(random.Random(0), "train")
    assert len(scenario.states) == 21 and len(scenario.initial) == 3
    for before, after, done in zip(scenario.states, scenario.states[1:], scenario.operations, strict=False):
        assert after == done.apply(before) != before
        inside = [name for box in after for name in box]
        assert max(map(len, after)) <= 2 and len(inside) == len(set(inside)) <= 4 and done.objects
    assert scenario.num_changes[-1][0] == sum(a[0] != b[0] for a, b in itertools.pairwise(scenario.states))


@given(seed=st.integers(0, 2**32), split=st.sampled_from(["train", "validation", "test"]))
def test_a_puzzle_has_one_solution_and_needs_every_clue(seed, split):
    for item, puzzle in first(logical_deduction, split, 4, seed):
        size, clues = len(puzzle.names), tuple(puzzle.structure)
        assert solutions(clues, size) == [tuple(range(size))]
        for clue in clues:
            others = tuple(other for other in clues if other != clue)
            assert len(solutions(others, size)) > 1
        assert item.answer == f"the {puzzle.names[puzzle.asked]}."
        assert set(item.choices) == {f"the {name}." for name in puzzle.names}
        assert len(set(item.choices)) == size
        assert ("at", (puzzle.asked, puzzle.asked)) not in puzzle.structure
        assert structure_split(puzzle.structure, size) == split


CLUE_READERS = {  # sentence -> what it says of the places of its two or three things, on the shelf
    r"The (\w+) is to the left of the (\w+)": lambda a, b: a < b,
    r"The (\w+) is to the right of the (\w+)": lambda a, b: a > b,
    r"The (\w+) is directly left of the (\w+)": lambda a, b: a + 1 == b,
    r"The (\w+) is directly right of the (\w+)": lambda a, b: a == b + 1,
    r"The (\w+) is right beside the (\w+)": lambda a, b: abs(a - b) == 1,
    r"The (\w+) is somewhere between the (\w+) and the (\w+)": lambda a, b, c: b < a < c or c < a < b,
}


def test_the_words_of_a_puzzle_say_what_its_clues_mean():
    read = 0
    for item, _ in first(logical_deduction, "test", 300):
        opening, *told, query = item.question.split(". ")
        if not opening.startswith("On a shelf"):
            continue
        names = [choice.removeprefix("the ").removesuffix(".") for choice in item.choices]
        fitting = []
        for order in itertools.permutations(names):
            place = {name: index for index, name in enumerate(order)}
            if all(_true(sentence, place) for sentence in told):
                fitting.append(order)
        asked = stories.ORDINALS.index(query.split()[1])
        assert [f"the {order[asked]}." for order in fitting] == [item.answer], item.question
        read += 1
    assert read > 40


def _true(sentence: str, place: dict[str, int]) -> bool:
    for pattern, holds in CLUE_READERS.items():
        if found := re.fullmatch(pattern, sentence):
            return holds(*(place[name] for name in found.groups()))
    if found := re.fullmatch(r"The (\w+) is at one end of the shelf", sentence):
        return place[found[1]] in (0, len(place) - 1)
    found = re.fullmatch(r"The (\w+) is the (\w+) from the left", sentence)
    return place[found[1]] == stories.ORDINALS.index(found[2])


@pytest.mark.slow
def test_no_puzzle_structure_is_in_two_splits():
    puzzles = [[puzzle for _, puzzle in first(logical_deduction, name, 1000)] for name in SPLITS]
    structures = [{(puzzle.structure, len(puzzle.names)) for puzzle in some} for some in puzzles]
    assert not any(a & b for a, b in itertools.combinations(structures, 2))


def test_a_thousand_items_of_each_task_are_evaluated_and_none_twice():
    for task in TASKS:
        items = task.evaluated_items
        assert len(items) == len({item.question for item in items}) >= 1000
    sizes = [item.attributes["num_things"] for item in logical_deduction.TASK.evaluated_items]
    assert all(sizes.count(size) == len(sizes) / 4 for size in (3, 4, 5, 6))


def test_training_examples_are_what_evaluation_asks_but_never_the_same():
    pairs = list(training_examples(seed=3, num_examples=400))
    evaluated = {item.question for task in TASKS for item in task.evaluated_items}
    assert len(pairs) == 400 and not evaluated & {prompt for prompt, _ in pairs}
    for prompt, response in pairs:
        assert not prompt.endswith(" "), f"a prompt ends in a space, which belongs to the response: {prompt!r}"
        assert re.fullmatch(r" \S.*\.", response), f"a response is no space and a sentence: {response!r}"
    of_boxes = pairs[BUILTIN.index("boxes") :: len(BUILTIN)]
    assert of_boxes == [pair for pair in pairs if "Box 0 contains" in pair[0]], "the tasks take turns"
    for prompt, response in of_boxes:
        assert objects(response.strip().removesuffix(".")) == replay(prompt)[0]
        described = re.findall(r"Box \d contains ([^,.]+)", prompt.split(". ")[0])
        in_split = world.World(num_boxes=len(described)).signatures("train")
        assert tuple(len(objects(text)) for text in described) in in_split


def test_a_longer_run_of_training_examples_begins_like_a_shorter_one_and_seeds_differ():
    assert list(training_examples(1, 6)) == list(training_examples(1, 20))[:6]
    assert list(training_examples(1, 6)) != list(training_examples(2, 6))


@pytest.mark.slow
def test_items_and_examples_are_the_same_in_every_process():
    """Another hash seed is what changes the order of sets of strings from one process to the next."""
    code = (
        "import hashlib; from raycodellm.tasks import TASKS, training_examples; "
        "print(hashlib.sha256(repr(([task.evaluated_items for task in TASKS], list(training_examples(5, 50))))"
        ".encode()).hexdigest())"
    )
    here = ([task.evaluated_items for task in TASKS], list(training_examples(5, 50)))
    environment = {**os.environ, "PYTHONHASHSEED": "4242", "PYTHONPATH": str(FOLDER.parents[1])}
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert there.stdout.strip() == hashlib.sha256(repr(here).encode()).hexdigest()


@pytest.mark.slow
def test_a_thousand_items_of_every_task_take_less_than_a_few_seconds():
    started = time.process_time()
    for task in TASKS:
        first(task, "test", 1000, 1)
    assert time.process_time() - started < 6  # 0.6 s where it was written


def test_an_unknown_split_is_refused():
    for task in TASKS:
        with pytest.raises(ValueError, match="no split 'dev'"):
            next(task.generate("dev", 0))


@pytest.mark.parametrize("name", BUILTIN)
def test_each_task_is_a_folder_with_a_yaml_file_that_parts_question_and_answer_by_one_space(name):
    text = (FOLDER / name / f"{name}.yaml").read_text().replace("!function ", "")
    config = yaml.safe_load(text)
    assert config["task"] == name and config["target_delimiter"] == " "
    assert config["custom_dataset"] == f"raycodellm.tasks.{name}.dataset"


def test_the_package_imports_neither_lm_eval_nor_datasets():
    code = "import sys, raycodellm.tasks; print({'lm_eval', 'datasets', 'torch', 'ray'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "set()"
