"""``plain_data.py DATA...``: audio files and features for a recipe whose `--feats_type` is not raw."""

import io
import subprocess
import sys
from pathlib import Path

import kaldiio
import librosa
import numpy as np
import soundfile

BANDS, SHIFT = 40, 160  # samples at 16 kHz: 10 ms


def main(directories: list[str]) -> None:
    """Give each directory wav.scp of plain files, utt2num_samples and feats.scp."""
    for data in map(Path, directories):
        (data / "flac").mkdir(exist_ok=True)
        audio, lengths, features = {}, {}, {}
        for line in (data / "wav.scp").read_text().splitlines():
            utt, command = line.split(maxsplit=1)
            wav = subprocess.run(command.rstrip("| ").split(), check=True, capture_output=True).stdout
            samples, rate = soundfile.read(io.BytesIO(wav))
            audio[utt], lengths[utt] = data / "flac" / f"{utt}.flac", len(samples)
            soundfile.write(audio[utt], samples, rate)
            bands = librosa.feature.melspectrogram(
                y=samples, sr=rate, n_fft=400, hop_length=SHIFT, n_mels=BANDS
            )
            features[utt] = np.log(bands.T + 1e-6).astype(np.float32)
        kaldiio.save_ark(str(data / "feats.ark"), features, scp=str(data / "feats.scp"))
        for name, table in {"wav.scp": audio, "utt2num_samples": lengths}.items():
            (data / name).write_text("".join(f"{utt} {table[utt]}\n" for utt in sorted(table)))


if __name__ == "__main__":
    main(sys.argv[1:])
