# The checks, from fast to whole; each line runs as written without `just`, too.

# lint, format and types: seconds
check:
    ruff check .
    ruff format --check .
    mypy

# the fast tests: about a minute on two cores
test *arguments:
    pytest -m "not slow" {{arguments}}

# every test but the exhaustive ones: some minutes
all *arguments:
    pytest {{arguments}}

# the whole fuzz, the long kill matrix, a thousand examples per property: an hour or more
exhaustive *arguments:
    pytest -m exhaustive {{arguments}}

# what a continuous-integration run does, in a fresh virtual environment
ci:
    .ci/run

# overhead of the platform, start-up, stream and tokenisation, in turns with another checkout
bench other="":
    python benchmarks/house.py . {{other}}
    python benchmarks/training/overhead.py
    python benchmarks/training/startup.py
    python benchmarks/data/stream.py
    python benchmarks/data/tokenise.py

# the small form of a sweep file, from its head: `just small petty2024`
small name:
    sed -n '/^#  *raycodellm run/,/[^\\]$/s/^# *//p' sweeps/{{name}}.yaml | sh

# rewrite what is generated from the code
docs:
    python -m raycodellm.config.reference > docs/settings.md
    python -m raycodellm.evaluation.tasks.suites_page docs/evaluation.md

# format and mend what ruff can
fix:
    ruff check --fix .
    ruff format .
