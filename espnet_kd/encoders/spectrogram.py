"""The logarithmic power spectrogram, the features that Deep Speech 2 was published with."""

import torch
from espnet2.asr.frontend.abs_frontend import AbsFrontend
from espnet2.layers.stft import Stft
from torch import Tensor

from espnet_kd.errors import UserError

FLOOR = 1e-10  # of the power, as in ESPnet's log-mel


class Spectrogram(AbsFrontend):
    """ESPnet has no front end that leaves out the mel filters.

    Args:
        fs: sampling rate, such as 16000 or 16k; for the record, the features do not depend on it.
        n_fft: samples of a Fourier transform; 320 are 20 ms at 16 kHz.
        win_length: samples of the window, None: as many.
        hop_length: samples from frame to frame.
        window: by its name in torch.
        bins: the lowest of n_fft / 2 + 1.

    Raises:
        UserError: there are not so many bins.

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
            raise UserError(f"spectrogram: bins is {bins}: n_fft {n_fft} gives 1 to {n_fft // 2 + 1}")
        self.stft = Stft(n_fft=n_fft, win_length=win_length, hop_length=hop_length, window=window)
        self.hop_length = hop_length
        self.bins = bins

    def output_size(self) -> int:
        """Bins of a frame."""
        return self.bins

    def forward(self, input: Tensor, input_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, samples) waveform, (B,) samples -> (B, T, bins), zero in padding; (B,) frames."""
        with torch.autocast(input.device.type, enabled=False):
            spectrum, lengths = self.stft(input.float(), input_lengths)  # (B, T, F, 2)
            power = spectrum[:, :, : self.bins].square().sum(-1)
        frames = torch.arange(power.shape[1], device=lengths.device)
        padding = frames >= lengths[:, None]
        return power.clamp(min=FLOOR).log().masked_fill(padding[..., None], 0.0), lengths
