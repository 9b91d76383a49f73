import random
from argparse import Namespace
from pathlib import Path

import pytest
from miniature import contents

from espnet_kd.config import dump_yaml
from espnet_kd.data.tokens import check_transcripts, main
from espnet_kd.errors import UserError

WORDS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "ENTER", "RUBOUT", "REPEAT", "ERASE")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    rng = random.Random(1)
    lines = [f"u{i:02} {' '.join(rng.choices(WORDS, k=5))}\n" for i in range(60)]
    (tmp_path / "text").write_text("".join(lines))
    return tmp_path / "text"


def tokens(text: Path, *options: str) -> list[str]:
    main([*options, "--text", str(text), "--out", str(text.parent / "out")])
    return (text.parent / "out" / "tokens.txt").read_text().splitlines()


def test_characters_by_frequency(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("u1 AB  BA\nu2 B\nu3\n")
    # B three times, A twice, a space once
    assert tokens(tmp_path / "text", "--token_type", "char") == [
        "<blank>",
        "<unk>",
        "B",
        "A",
        "<space>",
        "<sos/eos>",
    ]
    assert (tmp_path / "out" / "train.txt").read_text() == "AB BA\nB\n"


def test_several_files_are_joined(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("u1 NO YES\n")
    (tmp_path / "b").write_text("u1 YES\n")
    main(
        [
            "--token_type",
            "word",
            "--text",
            str(tmp_path / "a"),
            str(tmp_path / "b"),
            "--out",
            str(tmp_path / "out"),
        ]
    )
    assert (tmp_path / "out" / "tokens.txt").read_text().split() == [
        "<blank>",
        "<unk>",
        "YES",
        "NO",
        "<sos/eos>",
    ]


def test_a_symbol_is_one_character(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("u1 A<noise>A\n")
    (tmp_path / "nlsyms").write_text("<noise>\n")
    found = tokens(tmp_path / "text", "--token_type", "char", "--nlsyms", str(tmp_path / "nlsyms"))
    assert found == ["<blank>", "<unk>", "A", "<noise>", "<sos/eos>"]


@pytest.mark.parametrize("token_type", ["char", "word"])
def test_the_token_list_equals_espnets(text: Path, token_type: str) -> None:
    from espnet2.bin.tokenize_text import main as stock

    command = ["--token_type", token_type, "--input", str(text), "--output", str(text.parent / "stock")]
    command += ["--non_linguistic_symbols", "none", "--field", "2-", "--cleaner", "none", "--g2p", "none"]
    command += ["--write_vocabulary", "true", "--add_symbol", "<blank>:0"]
    stock([*command, "--add_symbol", "<unk>:1", "--add_symbol", "<sos/eos>:-1"])
    assert tokens(text, "--token_type", token_type) == (text.parent / "stock").read_text().splitlines()


@pytest.mark.parametrize("mode", ["unigram", "bpe"])
def test_pieces_are_those_of_a_file_based_training(text: Path, mode: str) -> None:
    import sentencepiece

    found = tokens(text, "--token_type", "bpe", "--nbpe", "28", "--bpemode", mode)
    out, prefix = text.parent / "out", text.parent / "stock"
    sentencepiece.SentencePieceTrainer.train(
        input=str(out / "train.txt"),
        vocab_size=28,
        model_type=mode,
        model_prefix=str(prefix),
        character_coverage=1.0,
        input_sentence_size=100000000,
        minloglevel=2,
    )
    vocabulary = prefix.with_suffix(".vocab").read_text()
    assert (out / "bpe.vocab").read_text() == vocabulary
    # asr.sh drops the first three, <unk>, <s> and </s>
    pieces = [line.split("\t")[0] for line in vocabulary.splitlines()[3:]]
    assert found == ["<blank>", "<unk>", *pieces, "<sos/eos>"] and len(found) == 28
    processor = sentencepiece.SentencePieceProcessor(model_file=str(out / "bpe.model"))
    assert set(processor.encode("ONE TWO", out_type=str)) <= set(found)


def test_a_killed_run_leaves_no_list_of_another_model(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stage 6 would train on pieces with the numbers of others."""
    options = ("--token_type", "bpe", "--nbpe", "22")
    found, killed = tokens(text, *options), []
    monkeypatch.setattr("espnet_kd.data.tokens.write_token_list", lambda *args: killed.append(args))
    assert tokens(text, *options) == found, "the same model: others may read the list meanwhile"
    text.write_text("u1 ONE TWO THREE FOUR FIVE ENTER RUBOUT REPEAT\n")
    with pytest.raises(FileNotFoundError):
        tokens(text, *options)
    assert len(killed) == 2 and (text.parent / "out" / "bpe.model").exists()


def test_of_many_sentences_some_are_read(text: Path) -> None:
    """At equal distances, so that the pieces are the same every time, and those of these sentences alone."""
    options = ("--token_type", "bpe", "--nbpe", "22")
    found = tokens(text, *options, "--bpe_input_sentence_size", "20")
    text.write_text("".join(text.read_text().splitlines(keepends=True)[::3]))  # of 60 sentences
    assert tokens(text, *options) == found


def test_sentences_that_sentencepiece_leaves_out_are_counted(
    text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--token_type", "bpe", "--nbpe", "22")
    found = tokens(text, *options)
    assert not capsys.readouterr().err
    longest = "QUIZ " * 838 + "Q "  # 4190 bytes and a last letter, or two
    text.write_text(f"{text.read_text()}v1 {longest}ZZZ\n")
    assert tokens(text, *options) == found
    assert "warning: 1 sentences have more than 4192 bytes" in capsys.readouterr().err
    text.write_text(text.read_text().replace("ZZZ", ""))
    assert "Z" in "".join(tokens(text, *options))
    assert not capsys.readouterr().err


def test_symbols_are_pieces_of_their_own(text: Path) -> None:
    (text.parent / "nlsyms").write_text("<noise>\n\n<laugh>\n")
    found = tokens(text, "--token_type", "bpe", "--nbpe", "28", "--nlsyms", str(text.parent / "nlsyms"))
    assert found[2:4] == ["<noise>", "<laugh>"]


@pytest.mark.parametrize("options", [("bpe", "--nbpe", "28"), ("char",), ("word",)])
def test_again_gives_the_same_bytes(text: Path, options: tuple[str, ...]) -> None:
    tokens(text, "--token_type", *options)
    first = contents(text.parent / "out")
    tokens(text, "--token_type", *options)
    assert contents(text.parent / "out") == first


def test_too_many_pieces_names_the_largest_number(text: Path) -> None:
    with pytest.raises(UserError, match=r"--nbpe 5000: .* largest possible number is \d+$") as e:
        tokens(text, "--token_type", "bpe", "--nbpe", "5000")
    assert not (text.parent / "out" / "tokens.txt").exists()
    largest = str(e.value).split()[-1]
    assert len(tokens(text, "--token_type", "bpe", "--nbpe", largest)) == int(largest)


def test_too_few_pieces_names_the_smallest_number(text: Path) -> None:
    with pytest.raises(UserError, match="--nbpe 5: .* smallest possible number is ") as e:
        tokens(text, "--token_type", "bpe", "--nbpe", "5")
    smallest = str(e.value).split()[-1]
    assert len(tokens(text, "--token_type", "bpe", "--nbpe", smallest)) == int(smallest)


def test_no_transcripts(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("u1\nu2\n")
    with pytest.raises(UserError, match="there are no transcripts to make tokens from"):
        tokens(tmp_path / "text", "--token_type", "char")


def test_a_special_token_in_the_text(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("u1 YES <unk>\n")
    with pytest.raises(UserError, match="<unk> is in the text, but is a special token"):
        tokens(tmp_path / "text", "--token_type", "word")


def test_a_missing_file_is_named(text: Path) -> None:
    with pytest.raises(UserError, match="none does not exist"):
        tokens(text.parent / "none", "--token_type", "char")
    with pytest.raises(UserError, match="--nlsyms .*none does not exist: give a file with one symbol"):
        tokens(text, "--token_type", "char", "--nlsyms", str(text.parent / "none"))
    options = Namespace(token_type="char", nlsyms=str(text.parent / "none"), cleaner="none")
    with pytest.raises(UserError, match="--nlsyms .*none does not exist"):
        check_transcripts(text, list("EFORZ"), None, options)
    (text.parent / "latin").write_bytes(b"<noise>\n<\xe9>\n")
    with pytest.raises(UserError, match="--nlsyms .*latin is not UTF-8 text"):
        tokens(text, "--token_type", "char", "--nlsyms", str(text.parent / "latin"))


def test_what_no_model_can_write_in_an_evaluated_set_is_named(
    text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A test set in small letters has an error rate of 100 % by any model that learns capital letters."""
    small, same = text.parent / "small", text.parent / "same"
    small.write_text("u1 zero one\n")
    same.write_text("u1 ZERO ONE\nu2\n")
    tokens(text, "--token_type", "char", "--evaluated", str(same), str(small))
    (warning,) = capsys.readouterr().err.splitlines()
    # seven letters and a space, which is known
    assert f"{small}: 7 of 8 tokens (" in warning and "are not in the list: no model can write" in warning


def test_words_that_are_not_strings_in_yaml_stay_words(tmp_path: Path) -> None:
    import yaml
    from espnet2.utils.yaml_no_alias_safe_dump import yaml_no_alias_safe_dump

    words = ["null", "true", "1e5", "=", "<<", "~", "0x1F", "1_000", "12:30", "-", "no", "2026-01-01", "日本"]
    (tmp_path / "text").write_text(f"u1 {' '.join(words)}\n", encoding="utf-8")
    found = tokens(tmp_path / "text", "--token_type", "word")
    assert found == ["<blank>", "<unk>", *words, "<sos/eos>"]
    dumped = yaml_no_alias_safe_dump({"token_list": found}, sort_keys=False)  # how ESPnet writes config.yaml
    assert yaml.safe_load(dumped) == {"token_list": found} == yaml.safe_load(dump_yaml({"token_list": found}))


def test_symbols_of_bpe_pieces(text: Path) -> None:
    """--bpe_nlsyms goes before --nlsyms: a list, a file, or none of them."""
    symbols = text.parent / "nlsyms"
    symbols.write_text("<a>\n")
    (text.parent / "others").write_text("<b>\n<c>\n")
    for option, pieces in (
        ((), {"<a>"}),
        (("--bpe_nlsyms", "<d>,<e>"), {"<d>", "<e>"}),
        (("--bpe_nlsyms", str(text.parent / "others")), {"<b>", "<c>"}),
        (("--bpe_nlsyms", "none"), set()),
    ):
        found = tokens(text, "--token_type", "bpe", "--nbpe", "27", "--nlsyms", str(symbols), *option)
        assert {t for t in found if t.startswith("<")} - {"<blank>", "<unk>", "<sos/eos>"} == pieces


def test_rare_characters_may_be_left_out(text: Path) -> None:
    text.write_text(text.read_text() + "rare Q\n")
    assert any("Q" in t for t in tokens(text, "--token_type", "bpe", "--nbpe", "27"))
    found = tokens(text, "--token_type", "bpe", "--nbpe", "27", "--bpe_char_cover", "0.99")
    assert not any("Q" in t for t in found)
