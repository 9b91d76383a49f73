"""Log-mel features as sherpa-onnx computes them for streaming transducers."""

import math

import torch
from espnet2.asr.frontend.abs_frontend import AbsFrontend
from espnet2.layers.log_mel import LogMel
from espnet2.layers.stft import Stft
from torch import Tensor

from espnet_kd.errors import UserError

RATE = 16000  # samples per second; the mel filters end at 8 kHz
WINDOW, HOP, TRANSFORM = 400, 160, 512  # samples
KEPT = 480  # samples
PREEMPHASIS = 0.97
FLOOR = 2.0**-23  # least energy of a band, the machine epsilon of float32
BEFORE = (TRANSFORM - HOP) // 2  # samples of the first transform that come before the speech
AFTER = TRANSFORM // 2  # and at most of the last transform after it


class SherpaFbank(AbsFrontend):
    """Compute the log-mel features that sherpa-onnx gives to streaming transducers of the kind of NeMo.

    Frame t is in the middle of samples 160 t to 160 (t + 1); beyond its ends the speech is reflected, as in
    Kaldi with ``snip_edges: false``. Pre-emphasis of 0.97, a Hann window of 400 samples, power spectrum of
    512, Slaney's mel filters from 0 to 8 kHz, natural logarithm; no dither, and the mean stays.

    Args:
        fs: sampling rate, 16000 or 16k; sherpa-onnx has no other for such models.
        n_mels: number of mel filters.
        hop_length: 160; to be given, since ESPnet's streaming decoder reads it from the configuration.
        win_sz: 480, for the same reason: how many samples it takes for a frame, so that those at the edges of
            chunks see all their samples.

    Raises:
        UserError: one of the sizes has another value.

    Source:
        sherpa-onnx, online-recognizer-transducer-nemo-impl.h; kaldi-native-fbank, feature-window.cc.
    """

    def __init__(
        self,
        fs: int | str = RATE,
        n_mels: int = 80,
        hop_length: int | None = None,
        win_sz: int | None = None,
    ) -> None:
        super().__init__()
        if str(fs) not in (str(RATE), "16k"):
            raise UserError(
                f"sherpa_fbank: fs is {fs}: sherpa-onnx computes these features of {RATE} Hz only"
            )
        if (hop_length, win_sz) != (HOP, KEPT):
            raise UserError(
                f"sherpa_fbank: hop_length is {hop_length} and win_sz {win_sz}: write hop_length: {HOP} and "
                f"win_sz: {KEPT} in frontend_conf, where ESPnet's streaming decoder reads them"
            )
        self.stft = Stft(TRANSFORM, WINDOW, HOP, center=False)
        self.log_mel = LogMel(RATE, TRANSFORM, n_mels)
        self.hop_length, self.n_mels = HOP, n_mels

    def output_size(self) -> int:
        """Return the number of mel filters."""
        return self.n_mels

    def forward(self, input: Tensor, input_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute (B, samples) waveform, (B,) samples -> (B, T, n_mels), zero in the padding; (B,) frames."""
        with torch.autocast(input.device.type, enabled=False):
            speech = reflected(input.float(), input_lengths)
            # The window is zero at its first sample, the only one where Kaldi's filter, which begins anew in
            # each frame, is another.
            speech = speech[:, 1:] - PREEMPHASIS * speech[:, :-1]
            spectrum, frames = self.stft(speech, input_lengths + BEFORE + AFTER)  # (B, T, F, 2)
            features, frames = self.log_mel(spectrum.square().sum(-1), frames)
        return features.clamp(min=math.log(FLOOR)), frames


def reflected(speech: Tensor, lengths: Tensor) -> Tensor:
    """Return (B, samples) with reflections before and after each utterance, and a sample more before it.

    Sample -1 is sample 0, sample -2 is sample 1, and beyond the end likewise, as often as it takes.
    """
    place = torch.arange(-BEFORE - 1, speech.shape[1] + AFTER, device=speech.device)[None]
    period = 2 * lengths.clamp(min=1)[:, None]
    place = torch.remainder(place, period)
    return speech.gather(1, torch.minimum(place, period - 1 - place))
