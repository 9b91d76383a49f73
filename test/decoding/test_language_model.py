"""Language models are compared with the models that they decode with."""

from argparse import Namespace
from pathlib import Path

import pytest

from espnet_kd.config import dump_yaml
from espnet_kd.decoding import language_model
from espnet_kd.errors import UserError

TOKENS = ["<blank>", "<unk>", "A", "B", "<sos/eos>"]


def write(path: Path, **config: object) -> Path:
    path.write_text(dump_yaml(config))
    return path


def test_equal_tokens_pass(tmp_path: Path) -> None:
    config = write(tmp_path / "config.yaml", lm="seq_rnn", token_list=TOKENS)
    language_model.check_tokens(config, TOKENS, Path("exp/student"))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([*TOKENS[:2], "B", "A", TOKENS[4]], "exp/student: number 2 is 'A', there 'B': train it with the"),
        (TOKENS[:4], "exp/student: number 4 is '<sos/eos>', there None: train it"),
        (None, "exp/student: number 0 is '<blank>', there None"),
    ],
)
def test_other_tokens_are_refused(tmp_path: Path, tokens: list[str] | None, message: str) -> None:
    config = write(tmp_path / "config.yaml", lm="seq_rnn", token_list=TOKENS)
    with pytest.raises(UserError) as error:
        language_model.check_tokens(config, tokens, Path("exp/student"))
    assert f"{config} has other tokens than {message}" in str(error.value)


def test_a_model_of_speech_is_no_language_model(tmp_path: Path) -> None:
    config = write(tmp_path / "config.yaml", token_list=TOKENS, encoder="conformer")
    with pytest.raises(UserError, match="is not the config.yaml of a language model of ESPnet"):
        language_model.check_tokens(config, TOKENS, Path("exp/student"))


def test_configuration_and_checkpoint_belong_together() -> None:
    assert language_model.option_words(Namespace(lm_train_config=None, lm_file=None)) == []
    both = Namespace(lm_train_config=Path("c"), lm_file=Path("f"))
    assert language_model.option_words(both) == ["--lm_train_config", "c", "--lm_file", "f"]
    with pytest.raises(UserError, match="--lm_train_config and --lm_file belong together"):
        language_model.option_words(Namespace(lm_train_config=None, lm_file=Path("f")))
