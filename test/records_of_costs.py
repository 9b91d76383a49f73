"""A record of a measurement, for tests to change."""

from espnet_kd.measure.measurement import Measurement, Spread

RECORD = Measurement(
    utterances=4,
    duration_s=12.5,
    rounds=2,
    rtf=Spread(0.125, 0.1, 0.25),
    relative=None,
    relative_to=None,
    first_text_s=Spread(1.5, 1.0, 2.0),
    end_s=Spread(0.25, 0.2, 0.5),
    chunk_ms=640.0,
    startup_s=3.25,
    memory_mb=812.5,
    disk_mb=4.25,
    parameters=1_030_000,
    multiply_adds_per_s=35_600_000,
    encoder_multiply_adds_per_s=31_500_000,
    errors=3,
    words=40,
    machine={
        "cpu": "CPU 9", "cores": 2, "threads": 1, "load": 0.5, "versions": {"python": "3.12", "torch": "2"},
    },
    options={"stream": True, "checkpoint": None, "inference_config": None, "inference_args": ""},
)  # fmt: skip
