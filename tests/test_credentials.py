"""A key in an address is refused where it is given and masked where it is printed; and names that the storage needs."""

from __future__ import annotations

import pytest

from raycodellm import config
from raycodellm.config import UserError

SECRET = "s3://AKIAKEY:Sec/ret+1@bucket/data"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (SECRET, "s3://***@bucket/data"),
        ("--set a.path=gs://k:s@b x", "--set a.path=gs://***@b x"),
        ("['http://user:pa:ss@head:8265']", "['http://***@head:8265']"),
        ("s3://bucket/2024-01-01T10:00@v1", None),
        ("http://head:8265/@a", None),
        ("https://example.org:443/a@b", None),
        ("abfs://container@account/x", None),
        ("/a:b@c", None),
    ],
)
def test_a_key_in_an_address_is_masked_and_nothing_else_is(text: str, shown: str | None) -> None:
    assert config.without_credentials(text) == (shown or text)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        (f"sources.prose.path={SECRET}", "sources.prose.path"),
        (f"sources.prose.path=[/a, '{SECRET}']", "sources.prose.path.1"),
        (f"model={{pretrained: '{SECRET}'}}", "model.pretrained"),
        (f"evaluation.tasks=['{SECRET}']", "evaluation.tasks.0"),
        (f"pretrain.weights={{search: {{choice: [{{'{SECRET}': 1.0}}]}}}}", "weights"),
    ],
)
def test_an_address_with_a_key_in_it_is_refused_by_its_place_and_never_shown(sweep_text, override, key) -> None:
    with pytest.raises(UserError) as refused:
        config.parse(sweep_text, overrides=(override,))
    said = str(refused.value)
    assert key in said and "AWS_SECRET_ACCESS_KEY" in said and "s3://***@bucket/data" in said
    assert "Sec/ret" not in said and "AKIAKEY" not in said and len(said) < 300


@pytest.mark.parametrize("name", ["tokens", "stages", "Tokenizers"])
def test_a_sweep_is_not_called_like_a_folder_of_the_storage(sweep_text: str, name: str) -> None:
    with pytest.raises(UserError, match=rf"name: found '{name}', the storage's own folder.*another name"):
        config.parse(sweep_text, overrides=(f"name={name}",))
    assert config.parse(sweep_text, overrides=("name=tokens2",))
