"""The formats of source files, one file each.

To add a format `tsv`, write `tsv.py` here, which ends with a record `FORMAT`; the fields of
`raycodellm.corpora.registry.Format` say what it can hold. The sweep file then accepts `format: tsv`, and files whose
names have one of its extensions are guessed to be of the format. A reader is a generator of (place, record). The whole
file:

    from collections.abc import Iterator

    from raycodellm.config import Source
    from raycodellm.corpora.content import first_line, own_lines
    from raycodellm.corpora.documents import Record, SkipError, decode
    from raycodellm.corpora.inputs import Part
    from raycodellm.corpora.registry import Format

    def read_tsv(part: Part, source: Source) -> Iterator[Record]:
        names = column_names(part, source)
        for place, line in own_lines(part):
            if isinstance(line, SkipError):  # it is too long
                yield f":{place}", line
            elif place > 0:  # the first line has the names
                yield f":{place}", parse_row(names, line)

    def column_names(part: Part, source: Source) -> list[str]:
        return decode(first_line(part)).split("\\t")

    def parse_row(names: list[str], line: bytes) -> dict[str, str] | SkipError:
        try:
            return dict(zip(names, decode(line).split("\\t"), strict=False))
        except SkipError as skip:
            return skip

    FORMAT = Format(name="tsv", extensions=frozenset({".tsv"}), read=read_tsv, columns=column_names)

A record is a row (a dict; the format then gives `columns`, here `column_names`), the bytes or text of a document, or a
SkipError with the reason why it is no document. A reader yields the SkipError of a record and goes on: what it raises
ends the part. The records must not depend on how a file is cut into parts. Once a reader gives other documents than
before, its `identity` must say so, or old token stores would be taken for new ones.
"""
