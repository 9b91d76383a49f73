from pathlib import Path

import pytest

from espnet_kd.errors import UserError
from espnet_kd.scoring import hub5
from espnet_kd.scoring.alignment import Counts

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
