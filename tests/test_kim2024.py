"""The boxes task by the complete rules: worlds, splits and wording, right answers by replay, the paper's baseline."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import re
import statistics
import subprocess
import sys
from collections import Counter, defaultdict

import pytest

from raycodellm.tasks import FOLDER
from raycodellm.tasks.boxes.world import signature
from raycodellm.tasks.kim2024 import process_results, training
from raycodellm.tasks.kim2024.answers import said_contents
from raycodellm.tasks.kim2024.dataset import items
from raycodellm.tasks.kim2024.guessing import chance
from raycodellm.tasks.kim2024.names import AMBIGUOUS_NAMES, OTHER_NOUNS
from raycodellm.tasks.kim2024.prompt import shots
from raycodellm.tasks.kim2024.scenarios import moments, scenarios
from raycodellm.tasks.kim2024.subset import BOXES_BY_NUM_OPERATIONS, evaluated_moments
from raycodellm.tasks.kim2024.wording import WORDINGS
from raycodellm.tasks.words import NOUNS

VARIANTS = ("base", "altforms", "movecontents", "ambiref", "other_nouns", "numops")


def named(text: str) -> set[str]:
    return set() if text == "nothing" else {part.removeprefix("the ") for part in text.split(" and ")}


def box_of(place: str) -> int:
    return "ABCDEFG".index(place) if place in "ABCDEFG" else int(place)


SENTENCES = [  # (pattern, has a place that things leave, has one that they come to)
    (r"(?:Move|Lift) (.+) from \w+ (\w)(?: and set (?:it|them) down in| to) \w+ (\w)", True, True),
    (r"Move (the contents) of \w+ (\w) to \w+ (\w)", True, True),
    (r"(?:Remove|Clear) (.+) (?:from|out of) \w+ (\w)", True, False),
    (r"(?:Put|Add) (.+) (?:into|to) \w+ (\w)", False, True),
]


def replay(description: str) -> tuple[list[set[str]], list[int]]:
    """The things in each box and how many operations changed it, by carrying out the sentences of any variant."""
    first, *told = description.removesuffix(".").split(". ")
    state = []
    for clause in first.split(", "):
        if match := re.fullmatch(r"\w+ \w (?:contains (.+)|is (empty))", clause):
            state.append(named("nothing" if match[2] else match[1]))
        else:
            what = re.fullmatch(r"(.+) (?:is|are) in Container \w|[Tt]here is (nothing) in Container \w", clause)
            state.append(named(what[2] or what[1][0].lower() + what[1][1:]))
    changes = [0] * 7
    for sentence in told:
        ((match, leaves, comes),) = [
            (found, leaves, comes) for pattern, leaves, comes in SENTENCES if (found := re.fullmatch(pattern, sentence))
        ]
        places = [box_of(place) for place in match.groups()[1:]]
        source, target = places[0] if leaves else None, places[-1] if comes else None
        if source is not None and match[1] == "the contents":
            things = set(state[source])
        elif source is not None:  # an adjective that is left out must not leave a choice
            things = set()
            for name in named(match[1]):
                fitting = [one for one in state[source] if one == name or one.split()[-1] == name]
                assert len(fitting) == 1, (sentence, state[source])
                things.add(fitting[0])
        else:
            things = named(match[1])
            assert not any(things & box for box in state), "what is put into a box was in none"
        assert things
        if source is not None:
            state[source] -= things
            changes[source] += 1
        if target is not None:
            state[target] |= things
            assert len(state[target]) <= 3
            changes[target] += 1
    return state, changes


def description_of(item: dict) -> str:
    return item["question"].removeprefix("Description: ").removesuffix("\nStatement:")


@pytest.mark.parametrize("variant", VARIANTS)
def test_statements_and_numbers_of_operations_follow_from_carrying_out_the_sentences(variant):
    for item in itertools.islice(items(variant), 0, None, 7 * 5):
        state, changes = replay(description_of(item))
        assert [set(things) for things in item["state"]] == state
        assert said_contents(" " + item["statement"], item["places"]) == [frozenset(things) for things in state]
        attributes = json.loads(item["attributes"])
        assert attributes["num_operations"] == changes[item["box"]]
        assert attributes["part"] == [
            "nontrivial" if changes[item["box"]] else "trivial", f"{changes[item['box']]}_operations"
        ]  # fmt: skip


def test_the_query_form_asks_for_one_box_and_says_is_empty():
    for item in itertools.islice(items("query"), 0, 700):
        story, place = item["question"].rsplit(" Box ", 1)
        things = replay(story)[0][int(place)]
        assert int(place) == item["box"]
        said = item["statement"].removesuffix(".")
        assert set() == things if said == "is empty" else named(said.removeprefix("contains ")) == things
        assert item["shots"] == "" and "nothing" not in item["question"]


def test_scenarios_follow_the_rules_of_the_paper():
    told = scenarios("test")
    kinds = Counter(
        "put" if one.source is None else "remove" if one.target is None else "move"
        for scenario in told for one in scenario.operations
    )  # fmt: skip
    shares = {kind: count / kinds.total() for kind, count in kinds.items()}
    assert shares == pytest.approx({"move": 0.30, "remove": 0.46, "put": 0.24}, abs=0.01)
    assert all(len(scenario.operations) == 12 and len(scenario.initial) == 7 for scenario in told)
    assert max(len(box) for scenario in told for state in scenario.states for box in state) == 3
    mean = statistics.fmean(len(box) for scenario in told for box in scenario.initial)
    assert mean == pytest.approx(1.78, abs=0.05)  # a Poisson number of mean 2, of which three are kept at most
    of_boxes = Counter(number for moment in moments("test") for number in moment.changes)
    assert of_boxes.total() == 990 * 13 * 7
    natural = [100 * of_boxes[number] / of_boxes.total() for number in range(8)]
    paper = [39.4, 29.4, 18.0, 8.6, 3.3, 0.95, 0.23, 0.05]
    assert all(abs(a - b) < max(0.6, 0.05 * b) for a, b in zip(natural, paper, strict=True)), natural


def test_splits_share_no_signature():
    found = {name: {signature(one.initial) for one in scenarios(name)} for name in ("train", "validation", "test")}
    assert [len(scenarios(name)) for name in found] == [990, 220, 990]
    assert all(not one & other for one, other in itertools.combinations(found.values(), 2))
    with pytest.raises(ValueError, match="no split 'dev'"):
        scenarios("dev")


def test_the_evaluated_states_have_the_papers_numbers_of_operations():
    chosen = evaluated_moments()
    assert len(chosen) == len(set(chosen)) == 716
    numbers = Counter(number for moment in chosen for number in moment.changes)
    assert tuple(numbers[number] for number in range(8)) == BOXES_BY_NUM_OPERATIONS and numbers.total() == 5012
    assert len({moment.scenario for moment in chosen}) > 600


def test_the_random_baseline_is_the_papers_within_the_noise_of_guessing_once():
    by_number = defaultdict(list)
    for item in items():
        attributes = json.loads(item["attributes"])
        by_number[attributes["num_operations"]].append(attributes["chance"])
    nontrivial = [one for number, of in by_number.items() if number for one in of]
    assert 100 * statistics.fmean(nontrivial) == pytest.approx(15.39, abs=1.2)  # two standard errors of 3,709 guesses
    paper = [41.06, 17.85, 12.70, 11.87, 10.58, 9.16, 7.51, 12.59]
    for number, published in enumerate(paper):
        share = statistics.fmean(by_number[number])
        error = 100 * (share * (1 - share) / len(by_number[number])) ** 0.5
        assert abs(100 * share - published) < 3 * error, number


@pytest.mark.parametrize(
    ("mentioned", "gold"),
    [(["a"], {"a"}), (["a", "b", "a"], {"b"}), (["a", "b", "c", "a"], {"a", "c"}), (["a", "b", "c"], set("abc"))],
)
def test_the_chance_of_an_item_is_that_of_guessing(mentioned, gold):
    rng, tries = random.Random(0), 20_000
    guesses = ({rng.choice(mentioned) for _ in range(rng.randint(0, 3))} for _ in range(tries))
    assert chance(mentioned, gold) == pytest.approx(sum(guess == gold for guess in guesses) / tries, abs=0.015)


def test_an_empty_box_that_was_never_mentioned_with_a_thing_is_guessed_right():
    assert chance([], set()) == 1.0


def doc(**changed: object) -> dict:
    places = [f"Box {number}" for number in range(3)]
    state, initial = [["cup", "rope"], [], ["big cup"]], [["cup"], [], ["big cup"]]
    return {"places": places, "state": state, "initial": initial, "box": 0} | changed


@pytest.mark.parametrize(
    ("response", "right"),
    [
        (" Box 0 contains the cup and the rope, Box 1 contains nothing, Box 2 contains the big cup.", [1, 1, 1]),
        (" Box 0 contains the rope and the cup, Box 1 is empty, and Box 2 contains the big cup", [1, 1, 1]),
        (" Box 0 contains rope, cup and Box 1 contains nothing and Box 2 contains the cup", [1, 1, 0]),
        (" Box 0 contains the rope. Box 1 contains nothing.", [0, 0, 0]),
        (" Box 1 contains, Box 0 contains the cup the rope, Box 2 contains nothing", [1, 0, 0]),
        (" Box 0 contains the cup and the rope and the rope, Box 1 contains nothing and the cup", [1, 0, 0]),
        (" Box 0 contains nothing, Box 0 contains the cup and the rope", [0, 0, 0]),
        (" the cup and the rope", [0, 0, 0]),
        ("", [0, 0, 0]),
    ],
)
def test_an_answer_is_right_if_its_set_of_things_is(response, right):
    scores = [process_results(doc(box=box), [response]) for box in range(3)]
    assert [one["acc"] for one in scores] == right
    assert {one["state_acc"] for one in scores} == {float(all(right))}


def test_scores_of_a_wrong_answer_say_in_what_way_it_is_wrong():
    copied = process_results(doc(), [" Box 0 contains the cup, Box 2 contains the cup"])
    assert copied == {
        "acc": 0, "missing": 0, "copied": 1, "precision": 1, "hallucination": 0, "recall": 0.5, "state_acc": 0
    }  # fmt: skip
    invented = process_results(doc(), [" Box 0 contains the cup and the hat and the fan"])
    assert (invented["precision"], invented["recall"], invented["hallucination"]) == (pytest.approx(1 / 3), 0.5, 1)
    unsaid = process_results(doc(box=1), [" Box 0 contains the cup"])
    assert unsaid == {"acc": 0, "missing": 1, "copied": 0, "state_acc": 0}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_prompt_has_an_example_without_operations_and_one_of_the_same_boxes_with_six(variant):
    instruction, first, second, end = shots(variant).split("\n\n")
    assert end == "" and "Description" not in instruction
    (plain, told_none), (story, told) = (
        re.fullmatch(r"Description: (.+)\nStatement: (.+)", shot).groups() for shot in (first, second)
    )
    assert story.startswith(plain) and story.count(".") == 1 + (2 if variant == "numops" else 6)
    places = [WORDINGS[variant].place(box) for box in range(7)]
    for description, statement in ((plain, told_none), (story, told)):
        assert said_contents(statement, places) == [frozenset(things) for things in replay(description)[0]]
    assert "contains nothing" in told
    assert signature(scenarios("train")[0].initial) not in {signature(one.initial) for one in scenarios("test")}


def test_the_boxes_of_a_state_share_a_prompt_and_variants_share_their_states():
    base, other = list(items()), list(items("other_nouns"))
    for start in range(0, len(base), 7):
        state = base[start : start + 7]
        assert len({item["shots"] + item["question"] for item in state}) == 1
        assert [item["box"] for item in state] == list(range(7))
        assert len({json.loads(item["attributes"])["cluster"] for item in state}) == 1
    assert [item["attributes"] for item in base] == [item["attributes"] for item in other]
    words = set(re.findall(r"\w+", " ".join(item["question"] for item in other)))
    assert not words & set(NOUNS) and set(OTHER_NOUNS) <= words


@pytest.mark.parametrize(
    ("variant", "per_scenario"),
    [("numops", 3), *(pytest.param(*one, marks=pytest.mark.slow) for one in (("base", 13), ("query", 91)))],
)
def test_training_pairs_show_every_moment_of_the_training_split(variant, per_scenario):
    found = list(training.pairs("train", variant))
    assert len(found) == 990 * per_scenario
    texts = {item["question"] for item in items(variant)}
    assert not texts & {prompt for prompt, _ in found}, "no evaluated text is trained on"
    for prompt, response in found[:: 7 * per_scenario]:
        story = prompt.rsplit(" Box ", 1)[0] if variant == "query" else description_of({"question": prompt})
        state = replay(story)[0]
        said = said_contents(response, [f"Box {box}" for box in range(7)])
        if variant == "query":
            assert response in (f" contains {WORDINGS['base'].contents(state[int(prompt[-1])])}.", " is empty.")
        else:
            assert said == [frozenset(things) for things in state]


def test_a_hundred_things_have_names_of_their_own_in_every_variant():
    for names in (NOUNS, OTHER_NOUNS, AMBIGUOUS_NAMES):
        assert len(names) == len(set(names)) == 100
        assert all(re.fullmatch(r"[a-z]+( [a-z]+)?", name) for name in names)
    assert not set(NOUNS) & set(OTHER_NOUNS)
    assert len({name.split()[1] for name in AMBIGUOUS_NAMES}) == 17
    assert len({name.split()[0] for name in AMBIGUOUS_NAMES}) == 6


@pytest.mark.slow
def test_items_are_the_same_in_every_process():
    code = (
        "import hashlib, json; from raycodellm.tasks.kim2024.dataset import items; "
        "print(hashlib.sha256(json.dumps(list(items()), sort_keys=True).encode()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parents[1]), "PYTHONHASHSEED": "1"}
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    here = hashlib.sha256(json.dumps(list(items()), sort_keys=True).encode()).hexdigest()
    assert there.stdout.strip() == here


def test_the_items_are_those_of_version_1():
    found = hashlib.sha256(json.dumps(list(items()), sort_keys=True).encode()).hexdigest()[:16]
    assert found == "f71ed90a2e957456", "another benchmark: raise `version` in the YAML files, and this value"
