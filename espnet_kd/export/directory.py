"""The directory of an exported model: its files, its description, and how it transcribes.

``export.json`` has the version of this format, how to search, the sampling rate, the front end, where the
model came from, and what the check found. ``tokens.txt`` has a token and its number on each line, as
sherpa-onnx reads it. ESPnet and torch are not needed to transcribe.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from espnet_kd.errors import UserError
from espnet_kd.export import search
from espnet_kd.export.graph_parts import onnx_parts
from espnet_kd.export.search import PIECE, SPACE, Array, Chunks, Part, Settings
from espnet_kd.export.sherpa import recogniser
from espnet_kd.export.sherpa_stream import GIVEN, SherpaStream, online_recognizer
from espnet_kd.export.stream import ChunkEncoder, Encoder, Stream, decode
from espnet_kd.files import changed_file, fingerprint, read_json, read_lines
from espnet_kd.measure.recogniser import Stream as AnyStream

DESCRIPTION = "export.json"
TOKENS = "tokens.txt"
VERSION = 1
LABELS = {"onnx": "ONNX", "sherpa": "sherpa-onnx"}  # of formats in tables
FORMATS = tuple(LABELS)
TOKEN_TYPES = ("bpe", "char", "word")  # of ESPnet, whose tokens become text without its tokenizers
UNKNOWN, UNKNOWN_TEXT = "<unk>", " \u2047 "  # a piece of sentencepiece, and what it writes for it


@dataclass(frozen=True)
class Exported:
    """A model that was exported.

    Attributes:
        description: content of export.json.
        rate: samples per second that it expects.
        transcribe: function from (N,) samples, full scale 1, to their transcript.
        search: how it searches, in words.
        chunk: samples that a stream takes at a time; 0 if the model takes whole utterances.
        stream: begins an utterance that arrives in chunks; one at a time.
    """

    description: Mapping[str, Any]
    rate: int
    transcribe: Callable[[Array], str]
    search: str
    chunk: int = 0
    stream: Callable[[], AnyStream] | None = None


def load(directory: Path, threads: int = 1) -> Exported:
    """Load an exported model into onnxruntime or sherpa-onnx.

    Raises:
        UserError: a file is missing or damaged, or the directory is of another version of espnet_kd.
    """
    description = read_description(directory)
    settings = settings_of(directory, description)
    known = description.get(TOKENS)  # older exports have none
    if known is not None and known != fingerprint(directory / TOKENS):
        raise UserError(f"{directory / TOKENS} is cut, or not the one that was exported: export again")
    try:
        files = {name: directory / part["file"] for name, part in description["parts"].items()}
        rate, kind = int(description["rate"]), str(description["token_type"])
    except (KeyError, TypeError, AttributeError, ValueError) as e:
        raise UserError(f"{directory / DESCRIPTION} lacks or has a wrong {e}: export it again") from None
    if description["format"] == "sherpa":
        transcribe, stream, piece = sherpa_recogniser(files, directory / TOKENS, settings, threads)
        return Exported(description, rate, transcribe, settings.text, piece, stream)
    parts, tokens = onnx_parts(files, threads), read_tokens(directory)
    transcribe = transcriber(parts, settings, tokens, kind)
    if settings.chunks is None:
        return Exported(description, rate, transcribe, settings.text)
    begin = streamer(ChunkEncoder(parts, settings.chunks), parts, settings, tokens, kind)
    return Exported(description, rate, transcribe, settings.text, settings.chunks.samples, begin)


def settings_of(directory: Path, description: Mapping[str, Any]) -> Settings:
    """Return how an exported model searches.

    Args:
        directory: of the model, for the message.
        description: content of its export.json.

    Raises:
        UserError: the description lacks something.
    """
    try:
        stored = dict(description["settings"])
        chunks = stored.pop("chunks", None)
        return Settings(**stored, chunks=None if chunks is None else Chunks(**chunks))
    except (KeyError, TypeError, AttributeError, ValueError) as e:
        raise UserError(f"{directory / DESCRIPTION} lacks or has a wrong {e}: export it again") from None


def sherpa_recogniser(
    files: Mapping[str, Path], tokens: Path, settings: Settings, threads: int = 1
) -> tuple[Callable[[Array], str], Callable[[], SherpaStream] | None, int]:
    """Load a model into sherpa-onnx.

    Args:
        files: the graphs.
        tokens: tokens.txt.
        settings: of the search.
        threads: of sherpa-onnx.

    Returns:
        Function from (N,) samples at 16 kHz to their transcript; of a model that takes speech in chunks also
        what begins an utterance, and how many samples to hand over at a time.
    """
    if (cut := settings.chunks) is None:
        return recogniser(files, tokens, settings.least, threads), None, 0
    recognizer = online_recognizer(files, tokens, threads)

    def begin() -> SherpaStream:
        return SherpaStream(recognizer, cut)

    return lambda speech: decode(begin(), speech, GIVEN), begin, GIVEN


def transcriber(
    parts: Mapping[str, Part],
    settings: Settings,
    tokens: list[str],
    token_type: str,
    encoder: Encoder | None = None,
) -> Callable[[Array], str]:
    """Return a function from (N,) samples to their transcript.

    Args:
        parts: of the model.
        settings: of the search.
        tokens: the token list.
        token_type: see ``text_of``.
        encoder: a streaming one, if not that of the parts.
    """
    if settings.chunks is not None:
        size = settings.chunks.samples
        encoder = encoder or ChunkEncoder(parts, settings.chunks)
        begin = streamer(encoder, parts, settings, tokens, token_type)
        return lambda speech: decode(begin(), speech, size)

    def one(speech: Array) -> str:
        return text_of(search.transcribe(parts, settings, speech), tokens, token_type)

    return one


def streamer(
    encoder: Encoder, parts: Mapping[str, Part], settings: Settings, tokens: list[str], token_type: str
) -> Callable[[], Stream]:
    """Return a function that begins an utterance; arguments as of ``transcriber``."""
    return lambda: Stream(encoder, parts, settings, lambda found: text_of(found, tokens, token_type))


def read_description(directory: Path) -> dict[str, Any]:
    """Read export.json.

    Raises:
        UserError: the directory has none, or one of another version.
    """
    path = directory / DESCRIPTION
    if not path.is_file():
        raise UserError(f"{path} does not exist: give a directory that `espnet-kd export` wrote")
    description = read_json(path)
    if description.get("version") != VERSION or description.get("format") not in FORMATS:
        raise UserError(f"{path} is of another version of espnet_kd: export the experiment again")
    return description


def label_of(directory: Path) -> str:
    """Return what an exported model is called in a table, such as ``ONNX`` or ``int8, greedy``.

    Raises:
        UserError: see ``read_description``.
    """
    description = read_description(directory)
    settings = settings_of(directory, description)
    names = [LABELS[description["format"]], *(["int8"] if "int8" in description.get("check", ()) else [])]
    name = "int8" if names == ["ONNX", "int8"] else ", ".join(names)
    return name + ", streaming" * (settings.chunks is not None) + ", greedy" * settings.greedy


def refuse_old(directory: Path, experiment: Path) -> None:
    """Check that an exported model was made of what its experiment has now; a checkpoint may be gone.

    Raises:
        UserError: it was not, or see ``read_description``.
    """
    source = read_description(directory).get("source") or {}
    sha256 = source.get("checkpoint_sha256")  # older exports have none
    known = {str(source.get("checkpoint")): sha256} if sha256 else {}
    if (changed := changed_file(experiment, known)) is not None:
        raise UserError(f"it was made of another {changed} than there is now: export it again")


def why_old(directory: Path) -> str:
    """Say why a model in the directory of its experiment is not what that has now; "" if nothing is known."""
    if not (directory / DESCRIPTION).is_file():
        return ""
    try:
        refuse_old(directory, directory.resolve().parent)
    except UserError as e:
        return f"{directory}: {e}"
    return ""


def write_description(directory: Path, description: Mapping[str, Any], settings: Settings) -> None:
    """Write export.json, last, into a directory that is not in its place yet."""
    sums = {TOKENS: fingerprint(directory / TOKENS)} if (directory / TOKENS).is_file() else {}
    content = {"version": VERSION, **description, **sums, "settings": asdict(settings)}
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    (directory / DESCRIPTION).write_text(text, encoding="utf-8")


def write_tokens(directory: Path, tokens: Mapping[int, str]) -> None:
    """Write tokens.txt, of number -> token."""
    lines = "".join(f"{token} {number}\n" for number, token in tokens.items())
    (directory / TOKENS).write_text(lines, encoding="utf-8")


def read_tokens(directory: Path) -> list[str]:
    """Read tokens.txt."""
    return [line.rpartition(" ")[0] for line in read_lines(directory / TOKENS)]


def text_of(found: list[int], tokens: list[str], token_type: str) -> str:
    """Return the text of tokens, as ESPnet's tokenizers do.

    Args:
        found: their numbers.
        tokens: the token list.
        token_type: ESPnet's, one of ``TOKEN_TYPES``.

    Raises:
        UserError: the list has no token of a number.
    """
    if (last := max(found, default=0)) >= len(tokens):
        raise UserError(f"{TOKENS} is cut: {len(tokens)} tokens, none of the number {last}: export again")
    names = [tokens[i] for i in found]
    if token_type == "bpe":
        text = "".join(UNKNOWN_TEXT if name == UNKNOWN else name for name in names).replace(PIECE, " ")
    elif token_type == "char":
        text = "".join(" " if name == SPACE else name for name in names)
    else:
        text = " ".join(names)
    return " ".join(text.split())
