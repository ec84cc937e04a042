"""The generators of the builtin corpora: docstrings out, code kept, the same every time."""

from __future__ import annotations

import ast
import itertools
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycodellm.config import Source
from raycodellm.corpora import BUILTINS, builtin_digest, formal_language, python_library, source_fingerprint
from raycodellm.corpora.listing.builtin import rows_digest
from raycodellm.corpora.python_library import Module


def without_docstrings(text: str) -> str:
    return Module("m", textwrap.dedent(text)).without_docstrings()


def test_docstrings_go_and_comments_and_formatting_stay():
    text = '''\
        """Module."""

        # A comment.
        class A:
            """Class."""

            x  =  1   # odd spacing

            def f(self):
                """Doc
                over lines.
                """
                return "not a docstring"   # kept
        '''
    expected = """\
        # A comment.
        class A:
            x  =  1   # odd spacing

            def f(self):
                return "not a docstring"   # kept
        """
    assert without_docstrings(text) == textwrap.dedent(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('def f():\n    """Doc."""\n', "def f():\n    pass\n"),
        ('def f(): "doc"\n', "def f(): pass\n"),
        ('def f(): "doc"; return 1\n', "def f(): return 1\n"),
        ('class A: "one"; "two"; x = 1\n', "class A: x = 1\n"),
        ('def f():\n    "one"\n    "two"\n    return 1\n', "def f():\n    return 1\n"),
        ('def f():\n    "one"; "two"\n', "def f():\n    pass\n"),
        ('def f():\n    """Ä"""; y = "ö"\n', 'def f():\n    y = "ö"\n'),
        ('def f():\n    ("a"\n     "b")  # why\n    return 1\n', "def f():\n    # why\n    return 1\n"),
        ('"""Only a docstring."""\n', ""),
        (
            'async def f():\n    if 1:\n        class B:\n            "doc"\n',
            "async def f():\n    if 1:\n        class B:\n            pass\n",
        ),
        ('x = 1\n"a string, no docstring"\n', 'x = 1\n"a string, no docstring"\n'),
    ],
)
def test_odd_docstrings_go_and_the_rest_parses(text, expected):
    result = without_docstrings(text)
    assert result == expected
    ast.parse(result)


NAMES = st.sampled_from(["f", "g", "longer_name"])
DOCSTRINGS = st.sampled_from(['"doc"', '"""Two\n\nlines ä"""', "r'''raw'''", '("in " "brackets")'])
STATEMENTS = st.sampled_from(["x = 1", "return", "pass  # comment", "if x:\n    y = 'ü'\nelse:\n    z = 2"])


@st.composite
def definitions(draw, depth=2):
    body = draw(st.lists(DOCSTRINGS, max_size=2)) + draw(st.lists(STATEMENTS, max_size=2))
    if depth:
        body += draw(st.lists(definitions(depth=depth - 1), max_size=2))
    body = body or ["..."]
    blank = "\n" * draw(st.integers(1, 3))
    return f"def {draw(NAMES)}(a, b=1):\n" + textwrap.indent(blank.join(body), "    ", lambda line: bool(line.strip()))


def strip_tree(node: ast.AST) -> None:
    """Removes docstrings from the tree: the same rule written another way."""
    for child in ast.walk(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            while child.body and isinstance(child.body[0], ast.Expr) and isinstance(child.body[0].value, ast.Constant):
                if not isinstance(child.body[0].value.value, str):
                    break
                child.body.pop(0)
            if not child.body and not isinstance(child, ast.Module):
                child.body = [ast.Pass()]


@given(st.lists(definitions(), min_size=1, max_size=3).map("\n\n".join))
def test_what_is_left_is_the_same_program_without_its_docstrings(text):
    tree = ast.parse(text)
    strip_tree(tree)
    assert ast.dump(ast.parse(Module("m", text).without_docstrings())) == ast.dump(tree)


@pytest.fixture(scope="module")
def corpora():
    return vars(python_library.library())


@pytest.mark.slow
def test_the_library_gives_enough_of_each_for_a_first_sweep(corpora):
    size = {name: sum(len(text.encode()) for row in rows for text in row[1:]) for name, rows in corpora.items()}
    assert 1_500_000 < size["prose"] < 5_000_000
    assert 5_000_000 < size["code"] < 12_000_000
    assert 1_000_000 < size["instruct"] < 5_000_000


@pytest.mark.slow
def test_every_document_has_its_own_id_and_its_own_content(corpora):
    for rows in corpora.values():
        assert len({row[0] for row in rows}) == len(rows)
        assert len({row[-1] for row in rows}) == len(rows)


@pytest.mark.slow
def test_no_docstring_is_left_in_a_sample_of_the_code_and_all_of_it_parses(corpora):
    for name, text in corpora["code"][::7]:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
                assert ast.get_docstring(node) is None, name


@pytest.mark.slow
def test_prose_holds_docstrings_and_the_language_reference(corpora):
    prose = dict(corpora["prose"])
    assert "textwrap:shorten" in prose
    assert prose["textwrap:shorten"].startswith("Collapse and truncate the given text")
    assert any(name.startswith("pydoc_data.topics:") for name in prose)


@pytest.mark.slow
def test_an_instruction_asks_by_signature_and_docstring_and_the_response_is_the_source(corpora):
    rows = {name: (prompt, response) for name, prompt, response in corpora["instruct"]}
    prompt, response = rows["textwrap:shorten"]
    assert prompt.startswith("Write the Python function `shorten(text, width, **kwargs)`.\nCollapse and truncate")
    assert prompt.endswith("\n") and not prompt.endswith("\n\n")
    assert response.startswith("def shorten(text, width, **kwargs):\n    w = TextWrapper(")
    assert '"""' not in response
    for _, _, source in corpora["instruct"][::50]:
        ast.parse(source)


@pytest.mark.slow
def test_nothing_comes_from_tests_tables_or_installed_packages(corpora):
    modules = {row[0].split(":")[0].split("#")[0] for rows in corpora.values() for row in rows}
    parts = {part for module in modules - {"pydoc_data.topics"} for part in module.split(".")}
    assert not parts & (python_library.EXCLUDED_FOLDERS - {"tests"})


def test_the_digest_stands_for_the_content():
    assert python_library.library_digest() == python_library.library_digest()
    assert len(python_library.library_digest()) == 32


@pytest.mark.slow
def test_each_corpus_has_a_digest_of_the_documents_that_were_read(corpora):
    def digest(name: str, seed: int = 0) -> str:
        return builtin_digest(source_fingerprint(Source(kind="text", path=f"builtin:{name}"), seed))

    found = {name: digest(name) for name in BUILTINS}
    assert list(found) == ["python-prose", "python-code", "python-instruct", "tasks-instruct", "formal-language"]
    assert len(set(found.values())) == 5 and all(len(digest) == 16 for digest in found.values())
    assert found["python-code"] == rows_digest(corpora["code"])
    assert found["tasks-instruct"] != digest("tasks-instruct", seed=1), "its examples are drawn by seed"
    assert found["formal-language"] == digest("formal-language", seed=1), "its documents are the same for every seed"


def test_a_digest_changes_with_any_document_its_name_and_its_place():
    rows = [("a", "x"), ("b", "y")]
    others = [rows[:1], rows[::-1], [("a", "x"), ("b", "z")], [("a", "x"), ("c", "y")], [("a", "x", "b", "y")]]
    others += [[("ax", ""), ("b", "y")], [("a", "x"), ("b", "y"), ("", "")]]
    assert len({rows_digest(one) for one in [rows, *others]}) == 1 + len(others)


# ------------------------------------------------------------------------------------------------ formal language


@pytest.fixture(scope="module")
def abstract() -> dict[str, list[str]]:
    """Some documents of each rule of the generated corpus."""
    found: dict[str, list[str]] = {}
    for name, text in itertools.islice(formal_language.documents(), 300):
        found.setdefault(name.partition(":")[0], []).append(text)
    assert sorted(found) == sorted(formal_language.RULES)
    return found


def test_the_generated_corpus_is_the_same_on_every_machine() -> None:
    rows = list(itertools.islice(formal_language.documents(), 100))
    assert rows_digest(rows) == "7e4bc7c69210ea00"
    assert formal_language.digest() == "3b850f88f961e302"


def remaining(word: str, *, nested: bool) -> list[str]:
    """Brackets open at the word's end; a closing bracket closes the last that is open, or any of its kind."""
    opened: list[str] = []
    pairs = dict(zip(")]}>", "([{<", strict=True))
    for sign in word:
        opening = pairs.get(sign) or (sign.upper() if sign.islower() else None)
        if opening is None:
            opened.append(sign)
        elif nested:
            assert opened.pop() == opening
        else:
            opened.remove(opening)
    return opened


def test_brackets_are_balanced_and_nested_where_the_rule_says_so(abstract) -> None:
    assert not any(remaining(word, nested=True) for word in abstract["nested"])
    assert not any(remaining(word, nested=False) for word in abstract["shuffled"])


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("identity", lambda one: one),
        ("reverse", lambda one: one[::-1]),
        ("sort", lambda one: sorted(one, key=int)),
        ("set", lambda one: [x for place, x in enumerate(one) if x not in one[:place]]),
    ],
)
def test_each_line_of_numbers_follows_its_rule(abstract, name, rule) -> None:
    for line in itertools.chain.from_iterable(text.split("\n") for text in abstract[name]):
        given, made = (side.split() for side in line.split(" | "))
        assert made == rule(given)


def test_two_lists_are_united_a_number_is_deleted_and_a_stack_keeps_what_was_not_popped(abstract) -> None:
    for line in itertools.chain.from_iterable(text.split("\n") for text in (*abstract["union"], *abstract["delete"])):
        given, made = line.split(" | ") if " | " in line else (line.removesuffix(" |"), "")
        one, other = (side.split() for side in given.split(" ; "))
        unions, left = [*dict.fromkeys(one + other)], [x for x in one if [x] != other]
        assert made.split() in (unions, left)
    for line in itertools.chain.from_iterable(text.split("\n") for text in abstract["stack"]):
        given, _, made = line.partition(" |")
        stack: list[str] = []
        for move in given.split():
            stack.pop() if move == "-" else stack.append(move)
        assert made.split() == stack


def test_each_row_of_the_automaton_is_made_of_the_row_before_by_rule_110(abstract) -> None:
    for text in abstract["automaton"]:
        rows = text.split("\n")
        for before, after in itertools.pairwise(rows):
            ring = before[-1] + before + before[0]
            around = [ring[place : place + 3] for place in range(len(before))]
            assert after == "".join("0" if three in ("111", "100", "000") else "1" for three in around)
