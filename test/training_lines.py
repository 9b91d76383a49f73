"""Lines of an ESPnet training log."""

STAMP = "[vm] 2026-11-20 19:56:22,621 "
HEAD = (
    f"{STAMP}(abs_task:1921) INFO: [train] mini-batch sizes summary: N-batch=200, mean=7.3, min=3, max=26\n"
)
VALID = (
    f"{STAMP}(abs_task:1921) INFO: [valid] mini-batch sizes summary: N-batch=14, mean=7.4, min=2, max=14\n"
)


def started(epoch: int, epochs: int) -> str:
    return f"{STAMP}(trainer:322) INFO: {epoch}/{epochs}epoch started. Estimated time to finish: 45 minutes\n"


def batches(epoch: int, last: int) -> str:
    statistics = "iter_time=0.006, loss=22.3, acc=0.9"
    return f"{STAMP}(trainer:810) INFO: {epoch}epoch:train:{last - 49}-{last}batch: {statistics}\n"


def results(epoch: int, valid: str) -> str:
    train = "[train] loss_ctc=57.3, acc=0.211, time=50.58 seconds, total_count=346"
    plots = "[att_plot] time=7.1 seconds"
    return f"{STAMP}(trainer:392) INFO: {epoch}epoch results: {train}, [valid] {valid}, {plots}\n"
