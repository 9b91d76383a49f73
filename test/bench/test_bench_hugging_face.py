"""The benchmark of a teacher of transformers measures time and memory of every part."""

from dataclasses import replace

import pytest

pytest.importorskip("transformers")
from bench import hugging_face_teacher as part  # noqa: E402
from bench.speech_model import ModelSize  # noqa: E402


def test_time_and_memory_are_judged(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    size = ModelSize(1, 16)
    tiny = replace(part.CASES["an4"], student=size, teacher=size, utterances=2, seconds=0.5, rounds=1)
    monkeypatch.setattr(part, "CASES", {"tiny": tiny})
    names = (*part.PARTS, part.WHOLE)
    assert all(part.growth(tiny, name) >= 0 for name in names)
    for whole, met in ((21.0, True), (22.0, False)):
        sizes = dict(zip(names, (10.0, 10.0, whole), strict=True))
        monkeypatch.setattr(part, "peak", lambda case, name, sizes=sizes: sizes[name])
        monkeypatch.setattr(part, "TARGET", 1.05)
        part.main()
        judged = f"{whole / 20:.2f} (target: at most 1.05, {'met' if met else 'MISSED'})"
        assert f"memory, {part.WHOLE} / (student step + teacher forward): {judged}" in capsys.readouterr().out
