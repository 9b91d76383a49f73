"""What the hypotheses of an evaluated teacher depend on."""

from pathlib import Path

import pytest

from espnet_kd.decoding.evaluate import settings_of
from espnet_kd.pseudo_label.models import ModelSpec
from espnet_kd.teachers.kinds import Source

TEXT = ("tokenizer.json", "merges.txt", "spm.model", "generation_config.json")
FILES = ("config.json", "model.safetensors", *TEXT)


@pytest.mark.parametrize("changed", FILES)
def test_hypotheses_are_not_kept_when_the_tokenizer_or_the_search_has_changed(
    tmp_path: Path, changed: str
) -> None:
    for name in (*FILES, "README.md"):
        (tmp_path / name).write_text("{}")
    labeller = ModelSpec(str(tmp_path), "cpu", 1, 1, None, False)

    def both() -> tuple[object, object]:
        return settings_of(Source("hf", str(tmp_path)), "cpu"), labeller.settings("hf")

    before = both()
    (tmp_path / "README.md").write_text("other")
    assert both() == before
    (tmp_path / changed).write_text('{"a": 1}')
    assert [one == other for one, other in zip(both(), before, strict=True)] == [False, False]
