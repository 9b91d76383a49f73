"""The logarithmic power spectrogram, the features of the Deep Speech 2 paper."""

import torch
from espnet2.asr.frontend.abs_frontend import AbsFrontend
from espnet2.layers.stft import Stft
from torch import Tensor

from espnet_kd.errors import UserError

FLOOR = 1e-10  # least power, as in ESPnet's log-mel features


class Spectrogram(AbsFrontend):
    """Compute the logarithmic power spectrogram; ESPnet has no front end without mel filters.

    Args:
        fs: sampling rate, such as 16000 or 16k; recorded for checks, the features do not depend on it.
        n_fft: samples of a Fourier transform; 320 are 20 ms at 16 kHz.
        win_length: samples of the window; None: n_fft.
        hop_length: samples from one frame to the next.
        window: name of the window in torch.
        bins: how many of the n_fft / 2 + 1 bins to use, from the lowest.

    Raises:
        UserError: n_fft does not have that many bins.

    Source:
        Amodei et al. 2016, arXiv:1512.02595, section 3; sizes as in the public configurations.
    """

    def __init__(
        self,
        fs: int | str = 16000,
        n_fft: int = 320,
        win_length: int | None = None,
        hop_length: int = 160,
        window: str = "hann",
        bins: int = 160,
    ) -> None:
        super().__init__()
        if not 1 <= bins <= n_fft // 2 + 1:
            raise UserError(
                f"spectrogram: bins is {bins}: give 1 to {n_fft // 2 + 1}, or a larger n_fft than {n_fft}"
            )
        self.stft = Stft(n_fft=n_fft, win_length=win_length, hop_length=hop_length, window=window)
        self.hop_length = hop_length
        self.bins = bins

    def output_size(self) -> int:
        """Return the number of bins per frame."""
        return self.bins

    def forward(self, input: Tensor, input_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute (B, samples) waveform, (B,) samples -> (B, T, bins), zero in the padding; (B,) frames."""
        with torch.autocast(input.device.type, enabled=False):
            spectrum, lengths = self.stft(input.float(), input_lengths)  # (B, T, F, 2)
            power = spectrum[:, :, : self.bins].square().sum(-1)
        frames = torch.arange(power.shape[1], device=lengths.device)
        padding = frames >= lengths[:, None]
        return power.clamp(min=FLOOR).log().masked_fill(padding[..., None], 0.0), lengths
