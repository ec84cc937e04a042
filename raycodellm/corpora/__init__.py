"""Source files become documents.

`source_fingerprint` lists the files of a source, `plan_parts` cuts them, `read_part` reads the documents of a part, and
`read_in_tasks` does all of it in Ray Data tasks. `formats/` has one file per format.
"""

from raycodellm.corpora.cleaning.contamination import Benchmark, benchmark_of, too_short_warnings
from raycodellm.corpora.cleaning.decision import Decision, cleaned
from raycodellm.corpora.cleaning.overlap import ItemRuns, item_runs, seen_in
from raycodellm.corpora.cleaning.plan import CleaningPlan, cleaning_identity
from raycodellm.corpora.documents import Document, Skip, document_key
from raycodellm.corpora.grouping import grouped
from raycodellm.corpora.inputs import Part, SourceInputs
from raycodellm.corpora.listing.builtin import BUILTINS, builtin_digest
from raycodellm.corpora.listing.layouts import card_configs
from raycodellm.corpora.listing.sources import LISTED_BEFORE, local_files, source_fingerprint
from raycodellm.corpora.ray_reading import read_in_tasks, survey_documents
from raycodellm.corpora.reading import columns_found, plan_parts, read_in_process, read_part
from raycodellm.corpora.registry import check_settings
from raycodellm.corpora.sampling import document_bytes, sample_texts, text_bytes

__all__ = [
    "BUILTINS",
    "LISTED_BEFORE",
    "Benchmark",
    "CleaningPlan",
    "Decision",
    "Document",
    "ItemRuns",
    "Part",
    "Skip",
    "SourceInputs",
    "benchmark_of",
    "builtin_digest",
    "card_configs",
    "check_settings",
    "cleaned",
    "cleaning_identity",
    "columns_found",
    "document_bytes",
    "document_key",
    "grouped",
    "item_runs",
    "local_files",
    "plan_parts",
    "read_in_process",
    "read_in_tasks",
    "read_part",
    "sample_texts",
    "seen_in",
    "source_fingerprint",
    "survey_documents",
    "text_bytes",
    "too_short_warnings",
]
