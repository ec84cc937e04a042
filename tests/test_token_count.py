"""Tokens that are kept current at each trial's end are those that all trials together give."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from raycodellm.sweep.token_count import TokenCount
from raycodellm.tables import SharingSoFar, StageUse, sharing

KEYS = st.sampled_from("abcd")
USES = st.builds(
    StageUse,
    tokens=st.integers(10, 99),
    trunk_tokens=st.integers(0, 9),
    is_elsewhere=st.booleans(),
    is_trunk_elsewhere=st.booleans(),
)
ENDS = st.tuples(st.integers(0, 4), st.lists(KEYS, max_size=3, unique=True))


@given(st.fixed_dictionaries({key: USES for key in "abcd"}), st.lists(ENDS))
def test_what_is_saved_after_any_ends_is_what_all_trials_share(uses: Mapping[str, StageUse], ends: list) -> None:
    so_far, chains = SharingSoFar(), {}
    for trial, keys in ends:  # a trial that is run again ends otherwise
        so_far.put(trial, keys, uses)
        chains[trial] = keys
    found = sharing(chains.values(), uses)
    assert so_far.tokens_asked == found.tokens_asked and so_far.tokens_trained == found.tokens_trained
    assert so_far.tokens_taken_over == found.tokens_taken_over and so_far.tokens_saved == found.tokens_saved


@given(st.lists(st.tuples(st.integers(0, 4), st.dictionaries(KEYS, st.integers(0, 99)), st.none() | KEYS)))
def test_what_is_spent_after_any_events_counts_each_stage_once_with_the_most_of_its_trials(events: list) -> None:
    count, unfinished, finished = TokenCount(), {}, set()
    for trial, tokens, ended in events:
        if ended is not None:
            count.finish(ended, StageUse(7))
            finished.add(ended)
        unfinished[trial] = {key: number for key, number in tokens.items() if key not in finished}
        count.put(trial, unfinished[trial])
        open_keys = {key for of_trial in unfinished.values() for key in of_trial} - finished
        most = {key: max(of_trial.get(key, 0) for of_trial in unfinished.values()) for key in open_keys}
        assert count.total == 7 * len(finished) + sum(most.values())
