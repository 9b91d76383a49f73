"""Targets of a teacher on disk, read by utterance id in any order and by any number of processes.

::

    DIR/manifest.json        what they were made with, and the shards; written last
    DIR/00001/index.jsonl    a line for each utterance: length, transcript, audio, rows and CRC-32 at each tap
    DIR/output_layer.npz     only with a tap of the kind `joint`
    DIR/00001/ctc.ctc_lo     the rows of all its utterances at this tap, one after the other, little-endian

A row is a CTC frame or a decoder step. What it holds follows from the manifest, see ``Tap``: nothing is ever
unpickled. All paths are relative, so that a store can be moved. Whatever is read is checked: the manifest and
each index and the output layer by SHA-256, each utterance by its CRC-32.
"""

from espnet_kd.store.manifest import Manifest, ShardEntry
from espnet_kd.store.output_layer import OutputLayer, write_output_layer
from espnet_kd.store.shard import Record, audio_checksum, text_checksum, write_shard
from espnet_kd.store.store import Store
from espnet_kd.store.tap import Tap
from espnet_kd.store.verify import verify

__all__ = [
    "Manifest",
    "OutputLayer",
    "Record",
    "ShardEntry",
    "Store",
    "Tap",
    "audio_checksum",
    "text_checksum",
    "verify",
    "write_output_layer",
    "write_shard",
]
