"""What a training computes with and costs, in its run.json; what tells two environments apart."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from espnet_kd import environment
from espnet_kd.environment import Account, describe, differences
from espnet_kd.errors import UserError

HERE: dict[str, Any] = {
    "python": "3.12.3", "torch": "2.14.1", "espnet": "202611", "numpy": "2.3", "libraries": ["MKL 2024.2"],
    "cpu": "AMD EPYC", "vendor": "AuthenticAMD", "instructions": "avx2 avx512f fma", "capability": "AVX512",
    "settings": {}, "threads": 1, "processes": 1, "precision": "float32", "gpus": [], "cuda": None,
    "cudnn": None,
}  # fmt: skip
ON_GPU = HERE | {"gpus": ["NVIDIA H200"], "cuda": "13.0", "cudnn": 92400}


def test_this_machine_is_described_by_plain_values() -> None:
    found = describe(processes=2)
    assert json.loads(json.dumps(found)) == found
    assert found.keys() == HERE.keys()
    assert found["processes"] == 2 and found["threads"] >= 1 and found["gpus"] == []
    assert found["cpu"] and found["vendor"]
    assert differences(found, describe(processes=2)) == []


def test_libraries_of_linear_algebra_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """PyTorch built with:
  - GCC 13.3
  - Intel(R) oneAPI Math Kernel Library Version 2024.2
  - Intel(R) MKL-DNN v3.12.0 (Git Hash 80afa71)
  - LAPACK is enabled (usually provided by MKL)
  - Build settings: BLAS_INFO=mkl, BUILD_TYPE=Release, USE_MKL=ON"""
    assert environment._libraries(text) == [
        "Intel(R) oneAPI Math Kernel Library Version 2024.2",
        "Intel(R) MKL-DNN v3.12.0 (Git Hash 80afa71)",
        "BLAS_INFO=mkl",
    ]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            "vendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\nflags\t\t: fma avx2 avx512f\n\nflags\t: x",
            {"cpu": "AMD EPYC", "vendor": "AuthenticAMD", "instructions": "avx2 avx512f fma"},
        ),
        (
            "BogoMIPS\t: 50.00\nFeatures\t: fp asimd sve bf16\nCPU implementer\t: 0x41",
            {"vendor": "0x41", "instructions": "asimd bf16 sve"},
        ),
    ],
    ids=["x86", "ARM"],
)
def test_the_cpu_is_described_from_its_file(tmp_path: Path, lines: str, expected: dict[str, str]) -> None:
    (tmp_path / "cpuinfo").write_text(lines)
    assert expected.items() <= environment.describe_cpu(tmp_path / "cpuinfo").items()


def test_a_machine_without_that_file_is_described_too(tmp_path: Path) -> None:
    assert environment.describe_cpu(tmp_path / "none")["vendor"]


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({"torch": "2.11.0"}, ["torch 2.11.0, not 2.14.1"]),
        ({"threads": 2, "processes": 4}, ["threads 2, not 1", "processes 4, not 1"]),
        ({"capability": "AVX2"}, ["CPU kernels AVX2, not AVX512"]),
        ({"instructions": "avx2 fma amx_tile"}, ["instructions of the CPU amx_tile, not avx512f"]),
        ({"libraries": ["OpenBLAS"]}, ["libraries of linear algebra OpenBLAS, not MKL 2024.2"]),
        ({"settings": {"MKL_CBWR": "AVX2"}}, ["environment variables MKL_CBWR=AVX2, not none"]),
        ({"gpus": ["NVIDIA H200"]}, ["GPUs NVIDIA H200, not none"]),
        ({"espnet": None}, ["ESPnet unknown, not 202611"]),
        ({"earlier": [HERE | {"torch": "2.11.0"}]}, ["trained in several environments"]),
        ({"python": "3.13.1", "numpy": "2.4", "cpu": "AMD EPYC 9654"}, []),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_what_computes_other_bits_is_named(change: dict[str, Any], lines: list[str]) -> None:
    assert differences(HERE, HERE | change) == lines


def test_the_cpu_does_not_matter_on_gpus() -> None:
    assert differences(ON_GPU, ON_GPU | {"capability": "AVX2", "threads": 8}) == []
    assert differences(ON_GPU, ON_GPU | {"cudnn": 91000}) == ["cuDNN 91000, not 92400"]
    assert differences(ON_GPU, ON_GPU | {"gpus": ["NVIDIA H200"] * 2}) == [
        "GPUs 2 x NVIDIA H200, not 1 x NVIDIA H200"
    ]


def test_an_environment_that_is_not_recorded_is_another() -> None:
    assert differences({}, {}) == []
    assert differences(HERE, {}) and differences({}, HERE)


def test_tables_compare_environments_without_torch() -> None:
    code = f"""
import sys
from espnet_kd.environment import differences
print(differences({HERE!r}, {ON_GPU!r}))
assert "torch" not in sys.modules and "numpy" not in sys.modules
"""
    assert "GPUs" in subprocess.check_output([sys.executable, "-c", code], text=True)


def test_a_training_in_three_places_names_the_others(tmp_path: Path) -> None:
    """First here, then on a GPU, then here again: two environments, the first of which is the present one."""
    for number, place in enumerate((HERE, ON_GPU, HERE)):
        account = Account(tmp_path, dict(place), resumed=number > 0)
        account.write(10.0)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record == {"environment": HERE | {"earlier": [ON_GPU]}, "cpu_seconds": 30.0}


@pytest.mark.parametrize(
    "text",
    [
        '{"cpu_seconds": "x"}',
        '{"cpu_seconds": NaN}',
        '{"environment": [1]}',
        '{"environment": {"earlier": [3]}}',
    ],
)
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match="run.json: cpu_seconds or environment is damaged"):
        Account(tmp_path, HERE, resumed=True)
    Account(tmp_path, HERE, resumed=False)


def test_a_part_that_was_not_recorded_makes_the_cpu_time_unknown(tmp_path: Path) -> None:
    """The sum of the other parts would be too low, and a table would take it for the cost of an update."""
    (tmp_path / "run.json").write_text('{"role": "student"}')
    for _ in range(2):
        Account(tmp_path, HERE, resumed=True).write(5.0)
        assert json.loads((tmp_path / "run.json").read_text())["cpu_seconds"] is None
    Account(tmp_path, HERE, resumed=False).write(5.0)
    assert json.loads((tmp_path / "run.json").read_text())["cpu_seconds"] == 5.0


def test_cpu_time_is_that_of_computing_and_of_ended_children(tmp_path: Path) -> None:
    account = Account(tmp_path, HERE, resumed=False)
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    assert 0.25 <= account.spent() < 10  # the system counts in hundredths of a second
