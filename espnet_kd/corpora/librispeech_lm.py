"""Sentences for language models of LibriSpeech (https://www.openslr.org/11): 40 million, of 14500 books.

They become a Kaldi text with the ids of ESPnet's recipe, ``librispeech_lng_00000001`` and so on.
"""

import gzip
import zlib
from pathlib import Path

from espnet_kd.command_line import command_parser
from espnet_kd.corpora.download import download
from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path

SENTENCES = "https://www.openslr.org/resources/11/librispeech-lm-norm.txt.gz"
LONGEST = 1 << 20  # characters of a line; the longest sentence has some thousands


def main(argv: list[str] | None = None) -> None:
    """Run ``prepare librispeech-lm [SOURCE] TEXT``; a text that exists is kept."""
    parser = command_parser("prepare librispeech-lm", __doc__.splitlines()[0])
    parser.add_argument(
        "source", nargs="?", default=SENTENCES,
        help="file of sentences, plain or gzipped, or its URL (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("text", type=Path, help="Kaldi text to write")
    parser.add_argument(
        "--downloads", type=Path, default=Path("downloads"),
        help="directory of downloads (default: %(default)s)",
    )  # fmt: skip
    args = parser.parse_args(argv)
    if args.text.exists():
        print(f"{args.text}: already there")
        return
    source = download(args.source, args.downloads) if "://" in args.source else Path(args.source)
    count = write_text(source, args.text)
    print(f"{args.text}: {count} sentences")


def write_text(source: Path, text: Path) -> int:
    """Write the sentences of a file as a Kaldi text, and return their number; empty lines are left out.

    Raises:
        UserError: the file cannot be read, is damaged, or has no sentence.
    """
    opener = gzip.open if source.suffix == ".gz" else open
    count = 0
    try:
        with opener(source, "rt", encoding="utf-8") as lines, atomic_path(text) as temporary:
            with temporary.open("w", encoding="utf-8") as out:
                number = 0
                while line := lines.readline(LONGEST):
                    number += 1
                    if words := line.split():
                        out.write(f"librispeech_lng_{number:08d} {' '.join(words)}\n")
                        count += 1
            if not count:
                raise UserError(f"{source} has no sentences: give a file with one in each line")
    except (EOFError, zlib.error, UnicodeDecodeError, OSError) as e:
        reason = getattr(e, "strerror", None) or e
        again = "give a file of sentences, or download it again"
        raise UserError(f"{source} cannot be read: {reason}: {again}") from None
    return count
