"""The teachers of a recipe beside those that a configuration names."""

import pytest

from espnet_kd.errors import UserError
from espnet_kd.teachers import kinds
from espnet_kd.teachers.named import with_teachers


def test_a_plug_in_beside_the_teacher_of_a_recipe_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both would be one ensemble."""
    monkeypatch.setattr(kinds, "plugins", lambda: {"whisperer": None})
    config = {"teacher": {"whisperer": ["exp/w", "exp/v"], "k": 4, "language": "en"}}
    message = (
        "teacher: the configuration names exp/w and exp/v, and the recipe has exp/t: leave out the "
        'recipe\'s by --teacher_config "", or the `whisperer` of the configuration'
    )
    with pytest.raises(UserError, match=message):
        with_teachers(config, ["exp/t"])
    # later generations replace the teacher with its options
    assert with_teachers(config, ["exp/s"], 2) == {"teacher": {"k": 4, "exp": ["exp/s"]}}
    assert with_teachers(config, []) == config


def test_options_of_the_teacher_of_a_recipe_stay() -> None:
    for teacher in ({"mean": "logits", "exp": "exp/t"}, {"weights": [1.0], "exp": ["exp/t"]}):
        found = with_teachers({"teacher": teacher}, ["exp/t"])
        assert found == {"teacher": {**teacher, "exp": ["exp/t"]}}
