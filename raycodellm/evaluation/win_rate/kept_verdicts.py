"""A judge's words, kept in a folder, so that no question is asked twice.

A judge's words are known by everything that they depend on: the judge's name, the length that they may have, and the
question, which holds the request and both answers in their order. They are written about every `FLUSH_SECONDS` into a
new small file, so that no file is written twice; a damaged one costs what it holds.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable

import pyarrow as pa

from raycodellm import retrying
from raycodellm.config import Judge as JudgeSettings
from raycodellm.evaluation.win_rate.endpoint import Said
from raycodellm.files import DamagedFile, Folder, fingerprint

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 10.0
"""Interval between two files: the judgements that a killed driver may lose."""
_COLUMNS = {"key": "string", "judge": "string", "said": "string"}
_MODEL = "model"
"""Column of the name by which the endpoint called the model that answered; files of older versions lack it."""


def question_key(settings: JudgeSettings, question: str) -> str:
    """The name of what the judge says to a question. An endpoint may move, so that its address is no part of it."""
    return fingerprint(["verdict", settings.model, settings.verdict_tokens, question])


class KeptVerdicts:
    """The judge's words, by their keys; kept in a folder, or nowhere."""

    def __init__(self, folder: Folder | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._new: list[dict[str, str]] = []
        self._flushed_at = clock()
        self.said: dict[str, str] = {}
        """Maps each key to what the judge said."""
        self.models: dict[str, str] = {}
        """Maps each key to the name by which the endpoint called the model that answered, where it told one."""
        if folder is not None:
            names = retrying.patiently(lambda: sorted(folder.list()), "the judge's words")
            for name in names:
                if name.endswith(".parquet"):  # others are half files of a killed driver
                    self._read(folder, name)

    def _read(self, folder: Folder, name: str) -> None:
        try:
            rows = retrying.patiently(lambda: folder.read_table(name, _COLUMNS), "the judge's words").to_pylist()
        except DamagedFile as error:
            logger.warning("%s; what it held is asked again", error)
            return
        self.said |= {row["key"]: row["said"] for row in rows}
        self.models |= {row["key"]: row[_MODEL] for row in rows if row.get(_MODEL)}

    def add(self, key: str, judge: str, reply: Said) -> None:
        """Keeps the reply of the judge of that name. Raises OSError where the folder takes no file."""
        self.said[key] = reply.words
        if reply.model:
            self.models[key] = reply.model
        self._new.append({"key": key, "judge": judge, "said": reply.words, _MODEL: reply.model})
        if self._clock() - self._flushed_at >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes the verdicts that were added since the last time."""
        self._flushed_at = self._clock()
        if self._folder is not None and self._new:
            schema = pa.schema([(name, pa.string()) for name in (*_COLUMNS, _MODEL)])
            table, name, folder = pa.Table.from_pylist(self._new, schema), f"{uuid.uuid4().hex}.parquet", self._folder
            retrying.patiently(lambda: folder.write_table(name, table), "the judge's words")
        self._new = []
