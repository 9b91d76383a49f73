"""Speech from espeak-ng through ctypes, no audio device and no program of the system needed."""

import ctypes
from pathlib import Path

import numpy as np

from espnet_kd.errors import UserError

ACCENTS = (
    "en",
    "en-us",
    "en-us-nyc",
    "en-029",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
)
# Numbers from espeak-ng's speak_lib.h.
SYNCHRONOUS = 2
DO_NOT_EXIT = 0x8000
POSITION_CHARACTER = 1
UTF8 = 1
RATE, PITCH, WORD_GAP = 1, 3, 7
BUFFER_MILLISECONDS = 1000
SINK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Synthesiser:
    """The library, loaded once in a process.

    espeak-ng carries state from one utterance to the next, even over its own termination:
    the same list of utterances gives the same samples only in a fresh process.

    Attributes:
        sample_rate: in Hz, 22050.

    Raises:
        UserError: the package espeakng_loader is not installed or its library does not start.
    """

    def __init__(self) -> None:
        loader = _loader()
        self._library = ctypes.CDLL(loader.get_library_path())
        data = loader.get_data_path().encode()
        self.sample_rate = self._library.espeak_Initialize(
            SYNCHRONOUS, BUFFER_MILLISECONDS, data, DO_NOT_EXIT
        )
        if self.sample_rate <= 0:
            raise UserError(
                f"espeak-ng does not start with its data in {data.decode()}: reinstall espeakng-loader"
            )
        self._chunks: list[bytes] = []
        self._sink = SINK(self._receive)  # kept: the library holds a bare pointer to it
        self._library.espeak_SetSynthCallback(self._sink)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        ctypes.CDLL(None).srand(1)  # espeak's breath noise comes from the C library

    def say(self, text: str, voice: str, rate: int = 175, pitch: int = 50, word_gap: int = 0) -> np.ndarray:
        """Speak.

        Args:
            text: English words; a comma is a pause.
            voice: an accent, or accent and variant as in ``en-us+f2``.
            rate: words a minute.
            pitch: 0 to 100, 50 is the voice's own.
            word_gap: pause between words in units of 10 ms.

        Returns:
            (samples,) int16 at ``sample_rate``.

        Raises:
            ValueError: there is no such voice.
        """
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        for parameter, value in ((RATE, rate), (PITCH, pitch), (WORD_GAP, word_gap)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._chunks.clear()
        data = text.encode() + b"\0"
        size = ctypes.c_size_t(len(data))
        status = self._library.espeak_Synth(data, size, 0, POSITION_CHARACTER, 0, UTF8, None, None)
        if status != 0:
            raise RuntimeError(f"espeak-ng: status {status} for {text!r} by {voice}")
        return np.frombuffer(b"".join(self._chunks), np.int16)

    def _receive(self, samples, count: int, _events) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0


def variants() -> list[str]:
    """The names of espeak-ng's voice variants, about 100, sorted.

    Raises:
        UserError: the package espeakng_loader is not installed.
    """
    return sorted(path.name for path in Path(_loader().get_data_path(), "voices", "!v").iterdir())


def _loader():
    try:
        import espeakng_loader
    except ImportError:
        raise UserError(
            "spoken digits are synthesised by the package espeakng-loader: pip install espnet_kd[demo]"
        ) from None
    return espeakng_loader
