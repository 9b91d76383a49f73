"""NIST's scoring of Hub5: hubscr, CTM and STM files, eval2000."""

from pathlib import Path

import pytest
from miniature_switchboard import write_eval2000

from espnet_kd.corpora import eval2000
from espnet_kd.errors import UserError
from espnet_kd.files import read_table, write_table
from espnet_kd.scoring import alignment, hub5
from espnet_kd.scoring.alignment import Counts
from espnet_kd.scoring.hub5 import ctm_text, main, parse_id, scored_words, spread_words

needs_hubscr = pytest.mark.skipif(
    hub5.find_hubscr() is None, reason="NIST's hubscr.pl (Debian package sctk) is not there"
)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Prepare a corpus and a decoded set in which every fourth utterance lacks its first word."""
    monkeypatch.chdir(tmp_path)
    eval2000.main([str(write_eval2000(tmp_path / "hub5", utterances=8)), "data"])
    said = read_table("data/eval2000/text")
    wrong = {utt: " ".join(words.split()[1:]) for utt, words in said.items() if utt in sorted(said)[::4]}
    Path("exp/inference/eval2000").mkdir(parents=True)
    write_table("exp/inference/eval2000/text", said | wrong)
    return tmp_path


def score(*options: str) -> None:
    main(["exp/inference/eval2000", "--data", "data/eval2000", *options])


def rates(subset: str) -> alignment.Score:
    return alignment.read_score(f"exp/inference/eval2000_{subset}")


@pytest.mark.parametrize("scorer", ["jiwer", pytest.param("hubscr", marks=needs_hubscr)])
def test_switchboard_callhome_and_both_are_scored(
    tree: Path, capsys: pytest.CaptureFixture, scorer: str
) -> None:
    capsys.readouterr()
    score("--scorer", scorer)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("scored by jiwer, not comparable" if scorer == "jiwer" else "scored by /")
    assert [line.split()[0] for line in lines[1:]] == ["eval2000_swbd", "eval2000_callhm", "eval2000_all"]
    # one word is missing in the first of four utterances of either part
    assert [rates(part).total["wer"].errors for part in ("swbd", "callhm", "all")] == [1, 1, 2]
    assert rates("all").total["wer"].deletions == 2 and len(rates("swbd").utterances["wer"]) == 4


@pytest.mark.parametrize("scorer", ["jiwer", pytest.param("hubscr", marks=needs_hubscr)])
def test_case_does_not_count(tree: Path, scorer: str) -> None:
    said = read_table("data/eval2000/text")
    write_table("exp/inference/eval2000/text", {utt: words.upper() for utt, words in said.items()})
    score("--scorer", scorer)
    assert rates("all").total["wer"].errors == rates("all").total["cer"].errors == 0


@needs_hubscr
def test_only_hubscr_knows_optional_words(tree: Path) -> None:
    said = read_table("data/eval2000/text")
    fragments = sum(words.split().count("th-") for words in said.values())
    write_table("exp/inference/eval2000/text", {u: w.replace("th-", "uh") for u, w in said.items()})
    score("--scorer", "jiwer")
    words = rates("all").total["wer"].reference
    score("--scorer", "hubscr")
    assert rates("all").total["wer"].errors == 0
    hesitations = Path("data/eval2000/stm").read_text().count("(%HESITATION)")
    # our filter removes fragments and hesitations, hubscr.pl counts them; by the GLM, UH-HUH is two words
    uh_huh = sum(words.split().count("uh-huh") for words in said.values())
    assert rates("all").total["wer"].reference == words + fragments + hesitations + uh_huh
    assert Path("exp/inference/eval2000_hubscr/hyp.ctm.filt.sys").exists()


def test_a_missing_hubscr_is_an_error_where_it_is_asked_for(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub5, "find_hubscr", lambda: None)
    with pytest.raises(UserError, match="hubscr.pl is not installed: `apt-get install sctk`"):
        score("--scorer", "hubscr")
    with pytest.raises(UserError, match="nowhere does not exist"):
        score("--hubscr", "nowhere")


def test_auto_prints_which_scorer_it_uses(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(hub5, "find_hubscr", lambda: None)
    score()
    assert "scored by jiwer, not comparable with published numbers" in capsys.readouterr().out


@needs_hubscr
def test_a_failure_leaves_no_files(tree: Path) -> None:
    Path("data/eval2000/glm").unlink()
    with pytest.raises(UserError, match="data/eval2000/glm does not exist: `prepare eval2000` writes it"):
        score()
    assert [p.name for p in Path("exp/inference").iterdir()] == ["eval2000"]


def test_a_missing_utterance_is_refused(tree: Path) -> None:
    write_table("exp/inference/eval2000/text", {"en_4156-A_000025-000085": "do"})
    with pytest.raises(UserError, match="exp/inference/eval2000/text lacks utterance .* and 6 more"):
        score()


# As sclite 2.10 writes it.
SGML = """<SYSTEM title="hyp.ctm" ref_fname="stm.filt" hyp_fname="hyp.ctm.filt" format="2.4" opt_del="TRUE">
<LABEL id="O" title="Overall" desc="The Aggregate Test Set">
</LABEL>
<SPEAKER id="en_4156_b">
<PATH id="(en_4156_b-000)" word_cnt="4" labels="<o,en,f,en-f>" file="en_4156" channel="b" R_T1="0.2">
S,"i","oh",0.410+0.570:C,"b","b",0.730+0.890:D,"that's",,:C,"(th-)","",0.000+0.000
</PATH>
<PATH id="(en_4156_b-001)" word_cnt="2" labels="<o,en,f,en-f>" file="en_4156" channel="b" R_T1="1.5">
I,,"oh",1.720+1.880:C,"m","m",2.200+2.360:C,"(%hesitation)","",0.000+0.000
</PATH>
</SPEAKER>
</SYSTEM>
"""
DTL = "Percent Total Error       =   50.0%   (   3)\n\nRef. words                =           (   6)\n"
FAKE = r"""#!/bin/bash
expected="-p $(dirname "$0") -V -l english -h hub5 -g glm -r stm hyp.ctm"
[ "$*" = "${expected}" ] || { echo "Error: called by $*"; exit 3; }
cp "$(dirname "$0")"/hyp.* .
"""


def stub(path: Path, text: str) -> Path:
    """Write an executable script."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Return a directory to score in; a stand-in for hubscr.pl beside it writes the reports above."""
    stub(tmp_path / "bin" / "hubscr.pl", FAKE)
    (tmp_path / "bin" / f"{hub5.REPORT}").write_text(SGML)
    (tmp_path / "bin" / "hyp.ctm.filt.dtl").write_text(DTL)
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def test_alignments_of_the_report(work: Path) -> None:
    aligned = hub5.run_hubscr(work.parent / "bin" / "hubscr.pl", work)
    first, second = aligned["en_4156_b-000"], aligned["en_4156_b-001"]
    # hits, substitutions, deletions, insertions; an optional word that is missing is a hit
    assert (first.counts, second.counts) == (Counts(2, 1, 1, 0), Counts(2, 0, 0, 1))
    assert first.pairs() == [("i", "oh", "S"), ("b", "b", " "), ("that's", "", "D"), ("(th-)", "", " ")]
    assert second.pairs() == [("", "oh", "I"), ("m", "m", " "), ("(%hesitation)", "", " ")]


def test_a_report_whose_alignments_do_not_add_up_is_refused(work: Path) -> None:
    (work.parent / "bin" / "hyp.ctm.filt.dtl").write_text(DTL.replace("3)", "4)"))
    with pytest.raises(UserError, match="hubscr.pl counts 4/6 errors/words, but its alignments .* 3/6"):
        hub5.run_hubscr(work.parent / "bin" / "hubscr.pl", work)


def test_a_failure_quotes_the_message_of_hubscr(work: Path) -> None:
    program = stub(work.parent / "hubscr.pl", "#!/bin/bash\necho skipped\necho 'Error: no labels'\nexit 1\n")
    with pytest.raises(UserError, match="hubscr.pl failed with status 1: Error: no labels; `--scorer jiwer`"):
        hub5.run_hubscr(program, work)
    program.write_text("#!/no/such/perl\n")
    with pytest.raises(UserError, match="hubscr.pl does not run: No such file"):
        hub5.run_hubscr(program, work)


def test_hubscr_is_found_in_the_path(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub5, "DEBIAN_HUBSCR", Path("/no/such/hubscr.pl"))
    monkeypatch.setenv("PATH", "")
    assert hub5.find_hubscr() is None
    monkeypatch.setenv("PATH", str(work.parent / "bin"))
    assert hub5.find_hubscr() == work.parent / "bin" / "hubscr.pl"


UTT = "en_4156-A_030185-030248"


def test_words_share_the_time_of_a_segment_and_the_last_takes_the_remainder() -> None:
    # 63 hundredths for 4 words: 15, 15, 15 and 18
    assert list(spread_words("a b c d".split(), 30185, 30248)) == [
        (30185, 15, "a"), (30200, 15, "b"), (30215, 15, "c"), (30230, 18, "d")
    ]  # fmt: skip
    assert list(spread_words([], 0, 10)) == []


def test_a_ctm_is_sorted_by_call_side_and_time() -> None:
    hypotheses = {"sw_4390-B_000005-000025": "so", UTT: "oh yeah", "en_4156-A_000100-000200": "i"}
    assert ctm_text(hypotheses) == (
        "en_4156 A 1.00 1.00 I\nen_4156 A 301.85 0.31 OH\nen_4156 A 302.16 0.32 YEAH\n"
        "sw_4390 B 0.05 0.20 SO\n"
    )


def test_unscored_words_keep_their_time() -> None:
    assert ctm_text({"en_4156-A_000000-000040": "uh yes th- [laughter]"}) == "en_4156 A 0.10 0.10 YES\n"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("oh uh yeah um right", "oh yeah right"),
        ("[noise] yes [vocalized-noise] [laughter] <unk>", "yes"),
        ("th- the uh-huh -y", "the uh-huh -y"),
        ("UH Huh Yes", "Yes"),
        ("slaughter laughter hum", "slaughter laughter hum"),
        ("uh um", ""),
    ],
)
def test_noises_hesitations_and_fragments_are_not_scored(text: str, left: str) -> None:
    assert scored_words(text) == left


def test_an_id_is_split_into_call_side_and_times() -> None:
    assert parse_id(UTT) == ("en_4156", "A", 30185, 30248)
    with pytest.raises(UserError, match="fash-an251-fash-b is not the id of an utterance of Hub5: expected"):
        parse_id("fash-an251-fash-b")
    with pytest.raises(UserError, match="is not the id of an utterance of Hub5"):
        parse_id(f"en_4156-A_{'9' * 5000}-1")
