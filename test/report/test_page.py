"""The page that plays utterances: everything is in it, and text of users is shown as it is."""

import base64
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fabricated import TAG, write_recipe
from miniature import tone, write_speech

from espnet_kd.errors import UserError
from espnet_kd.files import write_table
from espnet_kd.report import strips
from espnet_kd.report.page import main, mark, marked
from espnet_kd.report.posteriors import CtcModel
from espnet_kd.scoring.alignment import align

UTTERANCES = {f"u{i:02d}": 800 + 80 * i for i in range(40)}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SCRIPT = """<p id="seen"></p><script>
onload = () => setTimeout(() => {
  const frame = document.querySelector("iframe"), page = frame.contentDocument;
  const seconds = [...page.querySelectorAll("audio")].map(sound => sound.duration.toFixed(4));
  const width = page.documentElement.scrollWidth <= frame.clientWidth ? "fits" : "is too wide";
  document.getElementById("seen").textContent = [width, ...seconds].join(" ");
}, 1500);
</script>"""
HOSTILE = "</dd><script>alert('&')</script>"


class Page(HTMLParser):
    """Tags with their attributes, and the text that a reader sees."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open, "elements are left open"

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Experiments of 40 utterances of two words; those of the student have their last word missing."""
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path / "exp")
    write_speech(tmp_path / "dump/raw/test", UTTERANCES)
    write_table("dump/raw/test/text", dict.fromkeys(UTTERANCES, "one two"))
    for score in tmp_path.glob(f"exp/*/{TAG}/test/score.json"):
        said = "one" if score.parts[-4] == "student" else "one two"
        write_table(score.parent / "text", dict.fromkeys(UTTERANCES, said))
    return tmp_path


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher gives a word in the middle of each utterance; the student cannot be loaded."""
    frames = np.eye(2, dtype=np.float32)[[0] * 12 + [1] + [0] * 12]
    found = {"teacher (seed 1)": CtcModel(lambda speech, rate: frames, ["<blank>", HOSTILE])}
    reason = f"No posteriors of student: {HOSTILE}."
    monkeypatch.setattr(strips, "load_models", lambda groups, name: (found, [reason]))


def page(*options: str) -> Page:
    main(["--data", "dump/raw/test", *options])
    return Page(Path("demo.html").read_text())


def test_the_page_shows_models_and_utterances(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = page("--number", "4", "--title", "Spoken")
    assert capsys.readouterr().out.startswith("demo.html: 4 utterances, 4 models, ")
    headings = re.findall(r"\bu\d\d\b", found.text)
    assert headings == ["u00", "u10", "u20", "u30"]  # at equal distances
    assert "Spoken" in found.text and "distilled: ctc 0.00 M 13.8 ± 1.8 22/160" in found.text
    assert "student (1 error) one missing − two student, trained" in found.text
    assert "teacher (no errors) one two" in found.text


def test_posteriors_are_below_the_texts(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = page("--number", "2")
    assert re.search(r"the posteriors of an utterance take \d\.\d kB\n", capsys.readouterr().out)
    drawings = [attributes for tag, attributes in found.tags if tag == "svg"]
    assert [one["aria-label"] for one in drawings] == [
        f"teacher (seed 1): {HOSTILE} at {middle} s" for middle in ("0.0", "0.1")  # of 0.05 and 0.15 s
    ]
    assert found.text.count("No posteriors of student") == 1
    assert "CTC layers of teacher (seed 1), over time" in found.text
    assert not [tag for tag, _ in page("--no_posteriors").tags if tag == "svg"]


def test_the_sound_is_in_the_page(recipe: Path) -> None:
    found = page("--utterances", "u07")
    (source,) = (attributes["src"] for tag, attributes in found.tags if tag == "audio")
    assert source.startswith("data:audio/flac;base64,")
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    assert rate == 16000
    np.testing.assert_allclose(samples, tone(UTTERANCES["u07"]) / 2**15, atol=1e-4)


def test_the_pictures_of_the_report_are_in_the_page(recipe: Path) -> None:
    assert "Pictures" not in page().text
    Path("images").mkdir()
    Path("images/a b.png").write_bytes(b"picture")
    report = "# Results\n\n![WER; a dot is a \\*seed\\*](images/a%20b.png)\n\n![gone](images/gone.png)\n"
    Path("RESULTS.md").write_text(report)
    found = page()
    (image,) = (attributes for tag, attributes in found.tags if tag == "img")
    assert image["alt"] == "WER; a dot is a *seed*" and image["alt"] in found.text
    assert "gone" not in found.text
    assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == b"picture"
    with pytest.raises(UserError, match="other.md"):
        page("--results", "other.md")


def test_nothing_is_loaded_and_nothing_runs(recipe: Path) -> None:
    Path("a.png").write_bytes(b"picture")
    Path("RESULTS.md").write_text("![a](a.png)\n")
    found = page()
    assert not [tag for tag, _ in found.tags if tag in ("script", "link", "iframe", "object", "base")]
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "action"):
            assert attributes.get(name, "data:").startswith("data:")
    policy = [a["content"] for _, a in found.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; media-src data:; img-src data:"]


def test_text_of_users_is_shown_as_it_is(recipe: Path) -> None:
    write_table("dump/raw/test/text", dict.fromkeys(UTTERANCES, f"one {HOSTILE}"))
    found = page("--number", "1", "--title", f'"{HOSTILE}')
    assert not [tag for tag, _ in found.tags if tag == "script"]
    assert found.text.count(HOSTILE) >= 3  # the title twice, the reference


def test_it_is_read_without_colours_and_by_keyboard(recipe: Path) -> None:
    found = page("--number", "2")
    sounds = [attributes for tag, attributes in found.tags if tag == "audio"]
    assert all("controls" in a and a["aria-label"] for a in sounds)
    wide = [attributes for tag, attributes in found.tags if "scroll" in (attributes.get("class") or "")]
    assert len(wide) == 3  # the table, and the posteriors of two utterances
    for one in wide:  # they can be scrolled with arrow keys
        assert one["tabindex"] == "0" and one["role"] == "region"
    assert ("html", {"lang": "en"}) in found.tags
    assert [a["content"] for _, a in found.tags if a.get("name") == "viewport"] == [
        "width=device-width, initial-scale=1"
    ]


def test_errors_are_marked_by_signs_and_words() -> None:
    (aligned,) = align(["a b c"], ["a x c d"], "word")
    assert Page(marked(aligned, "word")).text == "a b replaced by → x c inserted + d"
    (aligned,) = align(["a b"], [""], "word")
    assert Page(marked(aligned, "word")).text == "missing − a missing − b"
    (aligned,) = align(["ab"], ["ac"], "character")
    assert marked(aligned, "character").startswith("a<span")
    (aligned,) = align(["a b"], ["ab"], "character")
    assert Page(marked(aligned, "character")).text == "a missing − ␣ b"
    styles = {re.search(r'class="([^"]*)"', mark("a", "b", kind))[1] for kind in "SDI"}  # type: ignore[index]
    assert len(styles) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--utterances", "u99"], "dump/raw/test lacks u99: "),
        (["--number", "0"], "--number 0: give 1 or more"),
        (["--megabytes", "0.01"], "the page would have .* MB or more: give fewer utterances, or"),
        (["--expdir", "elsewhere"], "elsewhere: no experiment has a score of test"),
    ],
)
def test_refused(recipe: Path, options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        page(*options)
    assert not Path("demo.html").exists()


def test_a_decoding_that_is_gone_is_named(recipe: Path) -> None:
    (recipe / f"exp/teacher/{TAG}/test/text").unlink()
    with pytest.raises(UserError, match="exp/teacher/.*/test/text does not exist"):
        page()


@pytest.mark.parametrize("file", ["dump/raw/test/text", f"exp/teacher/{TAG}/test/text"])
def test_texts_that_lack_an_utterance_are_named(recipe: Path, file: str) -> None:
    write_table(file, dict.fromkeys(list(UTTERANCES)[1:], "one two"))
    with pytest.raises(UserError, match=f"{file} lacks u00: "):
        page()


def test_a_page_that_is_too_large_is_refused_before_all_is_read(recipe: Path) -> None:
    (recipe / "dump/raw/test/wav.scp").write_text(
        (recipe / "dump/raw/test/wav.scp").read_text().replace("u39.", "gone.")
    )
    with pytest.raises(UserError, match="MB or more: give fewer utterances"):
        page("--megabytes", "0.01", "--number", "40")


def test_a_browser_shows_it_on_a_phone_and_knows_the_sounds(recipe: Path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser: install one of {', '.join(BROWSERS)}")
    page("--utterances", "u00", "u39")
    frame = f'<iframe src="demo.html" style="width: 320px; height: 800px"></iframe>{SCRIPT}'
    (recipe / "frame.html").write_text(f"<!doctype html>{frame}")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    options += [f"--user-data-dir={recipe / 'browser'}", "--virtual-time-budget=4000", "--dump-dom"]
    shown = subprocess.run(
        [browser, *options, (recipe / "frame.html").as_uri()], capture_output=True, text=True, timeout=120
    ).stdout
    # 800 and 800 + 39 * 80 samples of 16 kHz
    assert re.findall(r'id="seen">([^<]*)', shown) == ["fits 0.0500 0.2450"]
