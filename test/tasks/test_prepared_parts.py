"""What a training in parts prepares for its utterances."""

from argparse import Namespace
from types import SimpleNamespace

import pytest

from espnet_kd.tasks import asr


@pytest.mark.parametrize(("parts", "times"), [(True, 1), (False, 3)])
def test_methods_read_what_they_need_once_for_all_parts(
    parts: bool, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ESPnet asks for it in each part of each epoch; n-best lists of 281,000 utterances take 50 s to read."""
    calls: list[bool] = []
    method = SimpleNamespace(preprocess=lambda args, train, stock: calls.append(train) or calls.copy)
    monkeypatch.setattr(asr, "active", lambda config: [method])
    for _ in range(2):  # trainings
        args = Namespace(use_preprocessor=False, collect_stats=False, multiple_iterator=parts)
        for train in (True, False, True, True):
            assert asr.ASRDistillationTask.build_preprocess_fn(args, train) == calls.copy
        assert calls.count(True) == times and calls.count(False) == 1
        calls.clear()
