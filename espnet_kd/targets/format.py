"""Read and write the files of a target store: manifest, shards, output layer."""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from espnet_kd.errors import UserError
from espnet_kd.files import atomic_dir, atomic_path, fingerprint, fsync, read_json, read_lines

StorageKind = Literal["topk", "values", "codes", "collapsed", "path", "joint", "score"]
Number = Literal["float16", "float32"]
MANIFEST = "manifest.json"
INDEX = "index.jsonl"
OUTPUT_LAYER = "output_layer.npz"
COST = "cost.json"  # apart from the manifest, which is the same however long the work takes
FORMAT = 2  # 1 had no checksums of audio


@dataclass(frozen=True)
class TapFormat:
    """How the values of one layer are stored.

    Attributes:
        kind: `topk`: the K most probable classes, best first, with their log-probabilities among all V; the
            sum of their probabilities is their coverage. `values`: logits or hidden vectors, unchanged.
            `codes`: a byte for each codebook of a quantiser, a file next to the manifest. `score`: the
            log-probability of the transcript, one position for an utterance.
            For a transducer's lattice: `collapsed`, log-probabilities of next label, blank and all other
            classes at all nodes, frame by frame; `path`, the K most probable classes along the best
            alignment; `joint`, the projected outputs of encoder (frames) and prediction network (labels + 1
            steps), from which the output layer, a file next to the manifest, computes any part of the
            lattice.
        size: V classes, D features, or M codebooks.
        k: K; 0 for other kinds.
        temperature: divisor of the logits, for all kinds but `values` and `joint`.
        number: type of log-probabilities and values. float16 rounds a log-probability to 3 decimal digits.
    """

    kind: StorageKind
    size: int
    k: int = 0
    temperature: float = 1.0
    number: Number = "float16"

    @property
    def row(self) -> np.dtype[Any]:
        """Return the type of the row of one position; class numbers take as many bytes as V needs."""
        number = np.dtype(self.number).newbyteorder("<")
        if self.kind in ("values", "joint"):
            return np.dtype([("values", number, (self.size,))])
        if self.kind == "score":
            return np.dtype([("score", number)])
        if self.kind == "codes":
            return np.dtype([("codes", "u1", (self.size,))])
        if self.kind == "collapsed":
            return np.dtype([("log_probs", number, (3,))])
        token = np.min_scalar_type(self.size - 1).newbyteorder("<")
        node = [("frame", "<u4"), ("row", "<u2")] if self.kind == "path" else []
        return np.dtype([*node, ("tokens", token, (self.k,)), ("log_probs", number, (self.k,))])


@dataclass(frozen=True)
class OutputLayer:
    """The last layer of a joint network: logits = weight @ activation(projected outputs) + bias.

    Attributes:
        weight: (V, J) float32.
        bias: (V,) float32.
        activation: name of the activation, see ``rnnt.Joint``.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    activation: str


@dataclass(frozen=True)
class ShardEntry:
    """A shard in the manifest.

    Attributes:
        name: directory in the store.
        first: id of its first utterance.
        utterances: number of its utterances.
        index: SHA-256 of its index file.
    """

    name: str
    first: str
    utterances: int
    index: str


@dataclass(frozen=True)
class Manifest:
    """The contents of a store's manifest.json.

    Attributes:
        teachers: experiment, checkpoint, SHA-256 of both, and weight, of each teacher.
        tokens: SHA-256 of the token list.
        settings: everything else that the targets depend on: data, front end, mean of an ensemble.
        taps: how the values of each layer are stored, by module path.
        probe: number of positions of each layer for the noise of ``teachers.taps.probe``.
        rate: sampling rate of the speech, in hertz.
        shards: in the order of their utterances.
        samples: number of samples of all utterances.
        size: bytes of all shards.
        output_layer: SHA-256 of the output layer's file; None without a tap of the kind `joint`.
        long_probe: as ``probe``, for ``teachers.taps.LONG_PROBE`` seconds; empty in older stores.
        token_list: the teachers' tokens; empty in older stores, and where nothing needs them.
        blank: number of the CTC blank among them.
        quantisers: SHA-256 of the quantiser's file of each layer of the kind `codes`.
    """

    teachers: tuple[dict[str, Any], ...]
    tokens: str
    settings: dict[str, Any]
    taps: dict[str, TapFormat]
    probe: dict[str, int]
    rate: int
    shards: tuple[ShardEntry, ...] = ()
    samples: int = 0
    size: int = 0
    output_layer: str | None = None
    long_probe: dict[str, int] = field(default_factory=dict)
    token_list: tuple[str, ...] = ()
    blank: int = 0
    quantisers: dict[str, str] = field(default_factory=dict)

    @property
    def utterances(self) -> int:
        """Return the number of utterances."""
        return sum(shard.utterances for shard in self.shards)

    @property
    def hours(self) -> float:
        """Return the duration of the speech, in hours."""
        return self.samples / self.rate / 3600

    def write(self, directory: Path) -> None:
        """Write manifest.json with a checksum of itself."""
        content = {"format": FORMAT, **asdict(self)}
        content["checksum"] = checksum(content)
        with atomic_path(directory / MANIFEST) as temporary:
            temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class TargetRecord:
    """The stored targets of one utterance.

    Attributes:
        utt: id of the utterance.
        samples: length of the waveform, in samples.
        text: CRC-32 of the tokens; None if no tap depends on them.
        rows: by tap, (P,) of the tap's row type.
        audio: CRC-32 of the audio file's samples; None if it is not known.
    """

    utt: str
    samples: int
    text: int | None
    rows: dict[str, NDArray[Any]]
    audio: int | None = None


@dataclass(frozen=True)
class IndexEntry:
    """Where the rows of one utterance are in the files of a shard.

    Attributes:
        utt, samples, text, audio: as in ``TargetRecord``.
        start: by tap, number of the first row.
        rows: by tap, number of rows.
        crc: by tap, CRC-32 of the bytes of the rows.
    """

    utt: str
    samples: int
    text: int | None
    start: dict[str, int]
    rows: dict[str, int]
    crc: dict[str, int]
    audio: int | None = None


def quantiser_file(tap: str) -> str:
    """Return the name of the file of a layer's quantiser in a store."""
    return f"quantiser.{tap}.npz"


class OtherFormatError(UserError):
    """A store was written by another version of espnet_kd."""


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest of a complete store.

    Raises:
        UserError: it is missing, damaged, or written by another version.
    """
    path = directory / MANIFEST
    damaged = f"{path} is damaged: repeat the command that made the store"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found, kept = content.pop("checksum"), content.pop("format")
    except FileNotFoundError:
        raise UserError(
            f"{directory} is no complete store of targets: it has no {MANIFEST}; make it with "
            "`espnet-kd targets`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(damaged) from None
    if kept != FORMAT:
        raise OtherFormatError(
            f"{path} has the format {kept}, but this version reads {FORMAT}: remove {directory} and make the "
            "store again"
        )
    if found != checksum({"format": kept, **content}):
        raise UserError(
            f"{path} was changed after it was written: its checksum is wrong; "
            "repeat the command that made the store"
        )
    try:
        content["taps"] = {name: TapFormat(**tap) for name, tap in content["taps"].items()}
        content["shards"] = tuple(ShardEntry(**shard) for shard in content["shards"])
        content["token_list"] = tuple(content.get("token_list", ()))
        manifest = Manifest(**{**content, "teachers": tuple(content["teachers"])})
        sizes = [tap.row.itemsize for tap in manifest.taps.values()]
        if min([manifest.hours, manifest.utterances, *sizes]) < 0:
            raise UserError(damaged)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, SyntaxError):  # numpy's
        raise UserError(damaged) from None
    return manifest


@dataclass(frozen=True)
class Cost:
    """What it has cost to write a store, or a part of one, once the teachers are loaded.

    Attributes:
        cpu_seconds: CPU time of all workers.
        seconds: time of all workers from begin to end of their work; what counts where they use GPUs.
    """

    cpu_seconds: float = 0.0
    seconds: float = 0.0

    def write(self, directory: Path) -> None:
        """Write cost.json of a store."""
        with atomic_path(directory / COST) as temporary:
            temporary.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")


def read_cost(directory: Path) -> Cost | None:
    """Read what the store in a directory has cost; None if it is not known, as for stores of older versions.

    Raises:
        UserError: cost.json is damaged.
    """
    path = directory / COST
    if not path.exists():
        return None
    try:
        return Cost(**{name: float(value) for name, value in read_json(path).items()})
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{path} is not the cost of a store: remove it") from None


def checksum(content: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def tokens_checksum(tokens: Sequence[str]) -> str:
    """Compute the SHA-256 of a token list."""
    return checksum({"tokens": list(tokens)})


def write_shard(path: Path, records: Iterable[TargetRecord], taps: Mapping[str, TapFormat]) -> None:
    """Write utterances, sorted by id, into a new directory; do nothing if it exists.

    Raises:
        UserError: a value is not finite, or too large for the number type of its tap.
    """
    if path.exists():
        return
    with atomic_dir(path) as temporary:
        files = {tap: (temporary / tap).open("wb") for tap in taps}
        try:
            with (temporary / INDEX).open("w", encoding="utf-8") as index:
                for record in records:
                    line: dict[str, Any] = {"utt": record.utt, "samples": record.samples, "text": record.text}
                    line["audio"] = record.audio
                    for tap, file in files.items():
                        check_finite(record, tap, taps[tap])
                        content = record.rows[tap].tobytes()
                        file.write(content)
                        line[tap] = [len(record.rows[tap]), zlib.crc32(content)]
                    index.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
        finally:
            for file in files.values():
                file.close()
        fsync(*temporary.iterdir())


def read_index(path: Path, taps: Sequence[str]) -> dict[str, IndexEntry]:
    """Read the index of a shard, by utterance.

    Raises:
        UserError: it cannot be read, a line is malformed, or an utterance occurs twice.
    """
    entries: dict[str, IndexEntry] = {}
    end = dict.fromkeys(taps, 0)
    for number, content in enumerate(read_lines(path), 1):
        try:
            line = json.loads(content)
            rows, crc = ({tap: int(line[tap][i]) for tap in taps} for i in range(2))
            utt = line["utt"]
            text, audio = (None if (x := line[key]) is None else int(x) for key in ("text", "audio"))
            entry = IndexEntry(utt, int(line["samples"]), text, end, rows, crc, audio)
            twice = utt in entries
        except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError):
            raise UserError(
                f"{path}:{number} is not a line of a store's index: remove {path.parent} and make it again"
            ) from None
        if twice:
            raise UserError(
                f"{path}:{number}: {utt} occurs a second time: remove {path.parent} and make it again"
            )
        entries[utt] = entry
        end = {tap: end[tap] + rows[tap] for tap in taps}
    return entries


def text_checksum(tokens: Sequence[int]) -> int:
    """Compute the CRC-32 of token numbers."""
    return zlib.crc32(np.asarray(tokens, dtype="<i4").tobytes())


def audio_checksum(samples: NDArray[Any]) -> int:
    """Compute the CRC-32 of samples (N,) with full scale 1, as float32; the same for any file format."""
    return zlib.crc32(np.ascontiguousarray(samples, dtype="<f4"))


def damage(
    directory: Path, entries: Mapping[str, IndexEntry], taps: Mapping[str, TapFormat]
) -> Iterator[str]:
    """Yield a line for each file of a shard that is missing or has a length that contradicts the index."""
    for name, tap in taps.items():
        expected = sum(e.rows[name] for e in entries.values()) * tap.row.itemsize
        path = directory / name
        size = path.stat().st_size if path.is_file() else -1
        if size != expected:
            yield f"{path} {'is missing' if size < 0 else f'has {size} bytes, not {expected}'}"


def check_finite(record: TargetRecord, path: str, tap: TapFormat) -> None:
    """Check that the values of a record are finite numbers.

    Raises:
        UserError: one is not; names the utterance.
    """
    rows = record.rows[path]
    for name in rows.dtype.names or ():
        if not np.isfinite(rows[name]).all():
            raise UserError(
                f"{record.utt}: a value at {path} is not finite or too large for {tap.number}: look whether "
                "the teacher's training diverged, or use --number float32"
            )


def write_output_layer(directory: Path, layer: OutputLayer) -> str:
    """Write the output layer; return the SHA-256 of the file."""
    with atomic_path(directory / OUTPUT_LAYER) as temporary:
        np.savez(temporary, weight=layer.weight, bias=layer.bias, activation=np.array(layer.activation))
    return fingerprint(directory / OUTPUT_LAYER)


def read_output_layer(directory: Path, checksum: str | None) -> OutputLayer:
    """Read the output layer, and compare the file with its SHA-256 from the manifest.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = directory / OUTPUT_LAYER
    again = f"remove it and repeat the command that made {directory}"
    if fingerprint(path) != checksum:
        raise UserError(f"{path} is damaged: its checksum is wrong; {again}")
    try:
        with np.load(path, allow_pickle=False) as found:
            return OutputLayer(found["weight"], found["bias"], str(found["activation"]))
    except (ValueError, KeyError, zipfile.BadZipFile):
        raise UserError(f"{path} is not an output layer of espnet_kd: {again}") from None
