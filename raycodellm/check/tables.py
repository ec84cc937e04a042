"""The tables of `raycodellm check`: arms, stage tree and sources, as lines of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from raycodellm import search, stage_store, tokens
from raycodellm.check import trees
from raycodellm.check.plan import SizedCorpus
from raycodellm.config import Stage, SweepFile
from raycodellm.records import StageJob
from raycodellm.stage_store import Chain
from raycodellm.tables import StageUse, Table, sharing, sharing_sentence, stage_tree, table_lines, tree_lines

_MOST_ROUNDED = 4
"""Stages that the line on rounded tokens names; where tokens are searched, there may be one per arm."""


def arms(file: SweepFile, planned: Sequence[Mapping[str, object]]) -> list[str]:
    """The number of trials, and the arms that are planned."""
    sweep = file.example()
    objective = ", ".join(f"{o.metric} ({o.mode})" for o in sweep.search.objectives)
    counts = {"arm": search.num_arms(file), "seed": sweep.search.replicates, "trial": search.num_trials(file)}
    num_arms, num_seeds, num_trials = (f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items())
    count = f"{num_arms} × {num_seeds} = {num_trials}"
    if confirm := sweep.search.confirm:
        most, num_fresh = search.most_confirm_trials(file), confirm.seeds[-1]
        count += f", then at most ({search.num_confirmed(file) - 1} + 1) × {num_fresh} = {most} confirmation trials"
    lines = [f"{sweep.name}: {count}, sampler {sweep.search.sampler}, objective {objective}"]
    if constraint_names := ", ".join(constraint.name for constraint in sweep.search.constraints):
        lines.append(f"constraints: {constraint_names}")
    lines += [line] if (line := search.lacking_points(file)) else []
    lines.append(
        "arms:"
        if sweep.search.sampler in ("grid", "random", "qmc")
        else "arms, for example (the sampler chooses as it learns):"
    )
    lines += [
        f"  {number:3d}  {search.format_params(arm) or '(nothing is searched over)'}"
        f"{'  (the reference)' if number == 0 and sweep.search.reference is not None else ''}"
        for number, arm in enumerate(planned)
    ]
    num_more = search.num_arms(file) - len(planned)
    if num_more > 0:
        lines.append(f"  … and {num_more:,} more; the tables below are of the {len(planned)} above, costs are of all")
    return lines


def stages(chains: Sequence[Chain], estimated: Collection[str], num_seeds: int) -> list[str]:
    """The stage tree, with the tokens that sharing saves. Equal branches of several arms stand once.

    `chains`: of every arm with each of its `num_seeds` seeds, an arm's seeds together. `estimated`: sources whose token
    stores do not exist. A stage shows the beginning of its identity, as its folder's name does, unless several stages
    stand in one line, or its identity depends on the estimated size of such a source.
    """
    jobs = {job.key: job for chain in chains for job in chain.stages}
    unknown: set[str] = set()
    for job in jobs.values():  # parents come before their children
        if job.parent in unknown or any(source.name in estimated for source in job.sources):
            unknown.add(job.folder)
    names = {
        key: job.stage.name if job.folder in unknown else f"{job.stage.name} {job.identity[:6]}"
        for key, job in jobs.items()
    }

    def describe(key: str, trials: Sequence[int]) -> tuple[str, str]:
        shared = f" for {len(trials)} trials" if len(trials) > 1 else ""
        trunk_tokens = uses[key].trunk_tokens
        from_trunk = f", {trunk_tokens:,} of them taken over from another stage" if trunk_tokens else ""
        return jobs[key].stage.name, f"{jobs[key].stage.num_tokens:,} tokens{shared}{from_trunk}"

    keys = [[job.key for job in chain.stages] for chain in chains]
    uses = _uses(jobs)
    shared = sharing(keys, uses)
    tree = trees.merged(stage_tree(enumerate(keys), describe), names, num_seeds)
    return [
        "stage tree:",
        *tree_lines(tree, indent="  "),
        *_rounded_tokens_line(job.stage for job in jobs.values()),
        f"  {sharing_sentence(shared)}",
    ]


def _rounded_tokens_line(stages: Iterable[Stage]) -> list[str]:
    """A line that names each stage whose `tokens` are no whole number of steps; no line for none."""
    lengths = ((stage.name, stage.tokens, stage.num_tokens) for stage in stages)
    rounded = [
        (name, asked_tokens, num_tokens)
        for name, asked_tokens, num_tokens in dict.fromkeys(lengths)
        if asked_tokens != num_tokens
    ]
    examples = [
        f"{name} {asked_tokens:,} to {num_tokens:,}" for name, asked_tokens, num_tokens in rounded[:_MOST_ROUNDED]
    ]
    rest = [f"{len(rounded) - len(examples):,} more"] if len(rounded) > len(examples) else []
    return [f"  tokens rounded up to whole steps: {', '.join(examples + rest)}"] if examples else []


def _uses(jobs: Mapping[str, StageJob], times: int = 1) -> dict[str, StageUse]:
    """The use of each of the stages, trained `times` times, if none takes its trunk over from another sweep."""
    steps = stage_store.taken_steps(jobs.values())
    return {
        key: StageUse(
            tokens=times * job.stage.num_tokens, trunk_tokens=times * steps.get(key, 0) * job.stage.batch_tokens
        )
        for key, job in jobs.items()
    }


def confirmation(file: SweepFile, fresh: Sequence[Chain]) -> list[str]:
    """The tokens of the confirmation, if every arm needs every look. `fresh`: the chains of one fresh seed; no lines
    for none."""
    confirm = file.example().search.confirm
    if confirm is None or not fresh:
        return []
    times = confirm.seeds[-1]
    jobs = {job.key: job for chain in fresh for job in chain.stages}
    keys = [[job.key for job in chain.stages] for chain in fresh]
    shared = sharing(keys, _uses(jobs, times))
    looks = " and ".join(filter(None, [", ".join(map(str, confirm.seeds[:-1])), str(confirm.seeds[-1])]))
    return [
        f"confirmation, with looks after {looks} fresh seeds of each arm, at most:",
        f"  {sharing_sentence(shared)}",
    ]


def sources(
    sizes: Mapping[str, tokens.SourceSize], corpora: Mapping[str, SizedCorpus], chains: Sequence[Chain]
) -> list[str]:
    """Tokens of each source; tokens and epochs that a trial draws, over the trials; and tokens held out."""
    jobs = [job for chain in chains for job in chain.stages]
    unknown = [name for name, size in sizes.items() if not size.is_known]
    held_out = {source.name: source.held_out_tokens for job in jobs for source in job.sources}
    drawn_by_trial = [_drawn_tokens(chain.stages) for chain in chains]
    rows = []
    for name, size in sizes.items():
        num_held_out = corpora[name].held_out(held_out[name]) if held_out.get(name) else 0
        trained = max(1, size.num_tokens - num_held_out)
        ends = dict.fromkeys(find(drawn[name] for drawn in drawn_by_trial) for find in (min, max))
        rows.append(
            (
                name,
                _tokens_text(size),
                " to ".join(f"{end:,}" for end in ends),
                " to ".join(f"{end / trained:.2f}" for end in ends) if size.is_known else "not known here",
                f"{num_held_out:,}",
            )
        )
    header = ("source", "tokens", "tokens drawn by a trial", "epochs", "tokens held out")
    idle = [name for name in sizes if not any(drawn[name] for drawn in drawn_by_trial)]
    hints = [f"  no stage draws from source {name}; name it under a stage's sources, or remove it" for name in idle]
    if unknown:
        hints.append(
            f"  not reached from here: {', '.join(unknown)}; so they may be too small or not there, and without "
            "`within` those on one side of a code ratio count as equally large"
        )
    return ["sources:", *table_lines(Table(header, rows), indent="  "), *hints]


def _tokens_text(size: tokens.SourceSize) -> str:
    return f"{'about ' if size.is_estimate else ''}{size.num_tokens:,}" if size.is_known else "not known here"


def _drawn_tokens(stages: Sequence[StageJob]) -> Counter[str]:
    """Tokens that one trial draws from each source."""
    total: Counter[str] = Counter()
    for job in stages:
        total.update({source.name: sum(source.planned) * job.stage.sequence_length for source in job.sources})
    return total
