"""The formats of source files, one file each.

To add a format `tsv`, write `tsv.py` here with a record `FORMAT = Format(name="tsv", …)`; the fields of
`raycodellm.corpora.registry.Format` say what it can hold. The sweep file then accepts `format: tsv`, and files whose
names have one of its extensions are guessed to be of the format. A reader is a generator of (place, record):

    def read_tsv(part: Part, source: Source) -> Iterator[Record]:
        for place, line in own_lines(part):
            yield f":{place}", dict(zip(names, line.decode().split("\\t")))

A record is a row (a dict; the format then gives `columns`), the bytes or text of a document, or a SkipError with the
reason why it is no document. The records must not depend on how a file is cut into parts. Once a reader gives other
documents than before, its `identity` must say so, or old token stores would be taken for new ones.
"""
