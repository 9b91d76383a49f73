"""``espnet-kd demo-page``: a web page that plays utterances and shows what each model made of them.

The page is one file: audio is in it, and it asks no other host for anything and has no scripts. Errors are
marked by signs and borders, for people who do not see colours, and by words for those who listen to the page.
"""

import argparse
import base64
import io
import os
import re
from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import soundfile
from numpy.typing import NDArray

from espnet_kd.command_line import command_parser, path_text
from espnet_kd.criteria.criterion import near_misses
from espnet_kd.data.audio import read_speech
from espnet_kd.data.dump import read_dump
from espnet_kd.errors import UserError, printable
from espnet_kd.files import read_table, read_text, write_text
from espnet_kd.report import strips, tables
from espnet_kd.report.command import collect
from espnet_kd.report.groups import RunGroup
from espnet_kd.report.posteriors import CtcModel
from espnet_kd.scoring.alignment import UNITS, Aligned, align

STYLE = """
:root { color-scheme: light dark;
  --text: #1b1b1f; --page: #fdfdfd; --line: #8a8a93; --error: #9a1a1a; --soft: #f1f1f4 }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e6ea; --page: #17171b; --error: #ffb3a8; --soft: #26262c }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 58rem; padding: 1rem; background: var(--page); color: var(--text);
  font: 1rem/1.6 system-ui, sans-serif; overflow-wrap: anywhere }
figure { margin: 1rem 0 }
img { max-width: 100%; background: #fff }
h1 { font-size: 1.6rem; line-height: 1.25 }
h2 { font-size: 1.25rem; margin-top: 2rem }
h3 { font-size: 1rem; margin: 0 0 .5rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse }
th, td { padding: .3rem 1rem .3rem 0; text-align: right; white-space: nowrap; vertical-align: baseline }
th:first-child { text-align: left; white-space: normal; min-width: 9rem }
thead th { border-bottom: 2px solid var(--line); vertical-align: bottom }
tbody th { font-weight: normal }
tbody tr + tr > * { border-top: 1px solid var(--soft) }
article { background: var(--soft); border-radius: .5rem; padding: 1rem; margin: 1rem 0 }
audio { width: 100%; max-width: 26rem; height: 2.75rem; display: block }
dl { display: grid; grid-template-columns: minmax(6rem, 13rem) 1fr; gap: .35rem 1rem; margin: .8rem 0 0 }
dt { font-size: .9rem }
dd { margin: 0 }
.count { font-size: .85rem; white-space: nowrap }
.error { color: var(--error); border: 1px solid; border-radius: .3rem; padding: 0 .3rem;
  direction: ltr; unicode-bidi: isolate }
.deleted { border-style: dashed }
.inserted { border-style: double; border-width: 3px }
del, ins { unicode-bidi: isolate }  /* else the arrow between words of Arabic points to the old one */
.error ins { text-decoration: none; font-weight: bold }
.spoken { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden }
:focus-visible { outline: 3px solid var(--error); outline-offset: 2px }
@media (max-width: 38rem) { dl { grid-template-columns: 1fr; gap: 0 } dd { margin-bottom: .6rem } }
"""
# Nothing comes from anywhere else.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; media-src data:; img-src data:"
MARKS = {  # kind of error -> style, word, sign
    "S": ("error", "replaced by", "\u2192"),
    "D": ("error deleted", "missing", "\u2212"),
    "I": ("error inserted", "inserted", "+"),
}
PICTURE = re.compile(r"^!\[(.*)\]\((.*\.png)\)$", re.MULTILINE)  # as a report writes it
SPACE = "\u2423"  # stands for a space, where characters are compared
LEGEND = (
    ("nine", "four", "S", "substitution: four was recognised for nine"),
    ("nine", "", "D", "deletion: nine was not recognised"),
    ("", "four", "I", "insertion: four was recognised where nothing was said"),
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = command_parser("demo-page")
    p.add_argument("--expdir", type=path_text, default="exp", help="directory of the experiments")
    p.add_argument(
        "--teacher_exp", type=path_text, nargs="*", default=[],
        help="experiments elsewhere that are shown, too",
    )  # fmt: skip
    p.add_argument("--data", type=Path, required=True, help="formatted set that they have decoded")
    p.add_argument("--inference_tag", nargs="*", default=[], help="decodings, the first found is used")
    p.add_argument(
        "--metric", choices=tuple(UNITS), default="wer", help="errors that are marked (default: wer)"
    )
    p.add_argument("--number", type=int, default=10, help="utterances from all over the set (default: 10)")
    p.add_argument("--utterances", nargs="+", default=[], help="these utterances instead")
    p.add_argument("--no_posteriors", action="store_true", help="leave out what has to load models")
    p.add_argument(
        "--results", type=Path,
        help="report whose pictures are put into the page (default: RESULTS.md, if it is there)",
    )  # fmt: skip
    p.add_argument("--megabytes", type=float, default=20, help="largest page (default: %(default)s)")
    p.add_argument("--title", default="Teacher and students", help="heading of the page")
    p.add_argument("--out", type=Path, default=Path("demo.html"), help="page to write (default: %(default)s)")
    p.set_defaults(checkpoint=None)
    return p


def main(argv: list[str] | None = None) -> None:
    """Write the page, and print where it is."""
    args = parser().parse_args(argv)
    if args.number < 1:
        raise UserError(f"--number {args.number}: give 1 or more")
    speech = choose(args.data, args.utterances, args.number)
    references = read_table(args.data / "text")
    groups = [g for g in collect(args, [args.data.name])[0] if g.scored(args.data.name)]
    models, reasons = ({}, []) if args.no_posteriors else strips.load_models(groups, args.data.name)
    page = render(args, groups, speech, references, models, reasons)
    size = check_size(len(page.encode()), args.megabytes)
    write_text(args.out, page)
    drawn = sum(map(len, re.findall("<svg.*?</svg>", page))) / 1000 / len(speech)
    note = f", of which the posteriors of an utterance take {drawn:.1f} kB" if models else ""
    print(f"{args.out}: {len(speech)} utterances, {len(groups)} models, {size:.1f} MB{note}")


def check_size(number: int, most: float) -> float:
    """Return the megabytes of a number of bytes.

    Raises:
        UserError: they are more than there may be.
    """
    size = number / 1e6
    if size > most:
        raise UserError(f"the page would have {size:.1f} MB or more: give fewer utterances, or --megabytes")
    return size


def choose(data: Path, names: Sequence[str], number: int) -> dict[str, str]:
    """Return utterances, id -> entry of wav.scp: those named, or some at equal distances.

    Raises:
        UserError: the set is not formatted or has no transcripts, or lacks an utterance.
    """
    if not (data / "text").is_file():
        raise UserError(f"{data}/text does not exist: give a formatted set with transcripts")
    wav = dict(read_dump(data).absolute())
    for name in names:
        if name not in wav:
            raise UserError(f"{data} lacks {name}: {near_misses(name, wav)}")
    listed, number = list(wav), min(number, len(wav))
    return {name: wav[name] for name in names or [listed[i * len(wav) // number] for i in range(number)]}


def render(
    args: argparse.Namespace,
    groups: Sequence[RunGroup],
    speech: Mapping[str, str],
    references: Mapping[str, str],
    models: Mapping[str, CtcModel],
    reasons: Sequence[str],
) -> str:
    """Return the page.

    Args:
        args: of the command.
        groups: rows of the table.
        speech: utterance -> entry of wav.scp.
        references: utterance -> transcript.
        models: label -> model whose posteriors are shown.
        reasons: why those of others are not.
    """
    name, unit = args.data.name, UNITS[args.metric]
    check_texts(args.data / "text", references, speech)
    read = [(g.label, hypotheses_of(g, name, speech)) for g in groups]
    pictures = pictures_of(args.results)
    articles, size = [], len(pictures)
    for utt, wav in speech.items():
        found = [(label, texts[utt]) for label, texts in read]
        samples, rate = read_speech(wav, utt)
        panels = strips.panels_of(models, samples, rate, utt)
        drawn = strips.draw(panels, utt, len(samples) / rate) if panels else ""
        articles.append(utterance(utt, audio(samples, rate), references[utt], found, unit, drawn))
        size += len(articles[-1])
        check_size(size, args.megabytes)  # before the memory is full
    legend = "".join(f"<li>{mark(*row[:3])} {text(row[3])}</li>" for row in LEGEND)
    several = any(len(group.scored(name)) > 1 for group in groups)
    note = " They show the first seed, the table the mean over the seeds." if several else ""
    notes = [strips.NOTE.format(models="; ".join(models))] if models else []
    notes += reasons
    chosen = (
        "named on the command line"
        if args.utterances
        else "from all over the set, whatever the models made of them"
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{text(args.title)}</title>
<style>{STYLE}{strips.STYLE}</style>
</head>
<body>
<main>
<h1>{text(args.title)}</h1>
<h2 id="models">Models on the set {text(name)}</h2>
<div class="scroll" role="region" aria-labelledby="models" tabindex="0">
{systems(groups, name)}
</div>
{pictures}<h2>Utterances</h2>
<p>{len(speech)} utterances, {chosen}.{note}
Texts are as they were decoded; before scoring they may be cleaned. How errors are marked:</p>
<ul>{legend}</ul>
{"".join(f"<p>{text(note)}</p>" for note in notes)}
{"".join(articles)}</main>
</body>
</html>
"""


def pictures_of(results: Path | None) -> str:
    """Return the pictures of a report with their captions; nothing if none is named and none is here.

    Raises:
        UserError: the report that is named is not there, or is no text.
    """
    if results is None:
        results = Path("RESULTS.md")
        if not results.exists():
            return ""
    figures = []
    for caption, link in PICTURE.findall(read_text(results)):
        path = results.parent / unquote(link)
        if os.path.isfile(path):
            words = text(re.sub(r"\\(.)", r"\1", caption))
            data = base64.b64encode(path.read_bytes()).decode()
            image = f'<img alt="{words}" src="data:image/png;base64,{data}">'
            figures.append(f"<figure>{image}<figcaption>{words}</figcaption></figure>\n")
    return f"<h2>Pictures</h2>\n{''.join(figures)}" if figures else ""


def hypotheses_of(group: RunGroup, name: str, speech: Collection[str]) -> dict[str, str]:
    """Return the texts of the first run of a group.

    Raises:
        UserError: they are gone, or lack an utterance.
    """
    run = group.scored(name)[0]
    file = run.directory / str(run.inference_tag) / name / "text"
    texts = read_table(file)
    check_texts(file, texts, speech)
    return texts


def check_texts(file: Path, texts: Collection[str], speech: Collection[str]) -> None:
    """Refuse texts that lack an utterance."""
    for utt in speech:
        if utt not in texts:
            raise UserError(f"{file} lacks {utt}: complete it, or choose others with --utterances")


def systems(groups: Sequence[RunGroup], name: str) -> str:
    """Return the table of models."""
    measured = any(group.costs(name) for group in groups)
    rates = tables.RATES[groups[0].metric][:3]
    head = ["model", "parameters", *rates, *(tables.COSTS if measured else [])]
    rows = []
    for group in groups:
        total, size = group.total(name), group.scored(name)[0].parameters
        row = [group.label, "" if size is None else f"{size / 1e6:.2f} M", tables.spread(group.rates(name))]
        row += [f"{total.errors}/{total.reference}", tables.kinds(total)]
        if measured:
            row += [f"{cost:.3g}" for cost in group.costs(name) or ()] or [""] * len(tables.COSTS)
        cells = "".join(f"<td>{text(cell)}</td>" for cell in row[1:])
        rows.append(f'<tr><th scope="row">{text(row[0])}</th>{cells}</tr>')
    columns = "".join(f'<th scope="col">{text(column)}</th>' for column in head)
    return f"<table><thead><tr>{columns}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def utterance(
    utt: str, sound: str, reference: str, found: Sequence[tuple[str, str]], unit: str, drawn: str = ""
) -> str:
    """Return one utterance: sound, reference, the text of each model, and a drawing."""
    rows = [f'<dt>reference</dt><dd dir="auto">{text(reference)}</dd>']
    aligned = align([reference] * len(found), [hypothesis for _, hypothesis in found], unit)
    for (label, _), one in zip(found, aligned, strict=True):
        errors = one.counts.errors
        count = "no errors" if not errors else "1 error" if errors == 1 else f"{errors} errors"
        rows.append(f'<dt>{text(label)} <span class="count">({count})</span></dt>')
        rows.append(f'<dd dir="auto">{marked(one, unit)}</dd>')
    player = f'<audio controls preload="metadata" aria-label="{text(utt)}" src="{sound}"></audio>'
    return f"<article><h3>{text(utt)}</h3>{player}<dl>{''.join(rows)}</dl>{drawn}</article>\n"


def marked(aligned: Aligned, unit: str) -> str:
    """Return a hypothesis with its errors marked."""
    parts = [mark(*column) for column in aligned.pairs()]
    return (" " if unit == "word" else "").join(parts) or "<em>nothing</em>"


def mark(reference: str, hypothesis: str, kind: str) -> str:
    """Return one column of ``Aligned.pairs``, an error with a sign, and with words for those who listen."""
    if kind not in MARKS:
        return text(hypothesis)
    style, spoken, sign = MARKS[kind]
    reference, hypothesis = (part.replace(" ", SPACE) for part in (reference, hypothesis))
    old = f"<del>{text(reference)}</del>" if kind != "I" else ""
    new = f"<ins>{text(hypothesis)}</ins>" if kind != "D" else ""
    between = f'<span class="spoken"> {spoken} </span><span aria-hidden="true">{sign}</span>'
    parts = old + between + new if kind == "S" else between + old + new
    return f'<span class="{style}">{parts}</span>'


def text(value: str) -> str:
    """Return text that the page shows as it is, also in an attribute."""
    return escape(printable(value))


def audio(samples: NDArray[np.float32], rate: int) -> str:
    """Return (N,) samples as the address of a sound that is in the page (FLAC of 16 bits)."""
    if abs(samples).max(initial=0.0) > 1:  # a Kaldi ark has integers
        samples = samples / np.float32(2**15)
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="FLAC", subtype="PCM_16")
    return f"data:audio/flac;base64,{base64.b64encode(file.getvalue()).decode()}"
