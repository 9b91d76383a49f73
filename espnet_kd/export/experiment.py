"""The experiment that is exported: what it is, and whether a graph can hold it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_kd.data.audio import DEFAULT_RATE
from espnet_kd.errors import UserError
from espnet_kd.export.search import Settings
from espnet_kd.host.export import cache_shape, obstacle, searches, state_shapes
from espnet_kd.host.models import blank, ctc_layer, reads_language
from espnet_kd.host.outputs import OWSM, task_of
from espnet_kd.teachers.experiment import Experiment, load_experiment, read_config

# What ESPnet's preprocessor does to speech, which no graph does.
PREPARATION = ("speech_volume_normalize", "force_single_channel")


@dataclass(frozen=True)
class Source:
    """A trained experiment and how it is to be searched.

    Attributes:
        experiment: the model.
        config: its config.yaml.
        settings: of the search; ``least`` is not known yet.
        rate: samples per second.
    """

    experiment: Experiment
    config: Mapping[str, Any]
    settings: Settings
    rate: int

    @property
    def token_type(self) -> str:
        """Return ESPnet's type of the tokens."""
        return str(self.config.get("token_type", "bpe"))


def open_source(
    place: Path, checkpoint: str | None, search: str | None, beam_size: int, ctc_weight: float
) -> Source:
    """Load an experiment for export.

    Args:
        place: its directory.
        checkpoint: file in it.
        search: ``ctc``, ``attention`` or ``transducer``; None takes what the model was trained for.
        beam_size: of attention decoders.
        ctc_weight: of CTC beside them.

    Raises:
        UserError: it cannot be loaded, or part of it cannot be exported; the message names the part.
    """
    config = read_config(place)
    if (task := task_of(config)) in OWSM:
        raise UserError(f"{place} is of the task {task}; `export` takes the tasks asr and asr_transducer")
    prepared = [name for name in PREPARATION if config.get(name)]
    if prepared:
        raise UserError(f"{place} cannot be exported: {prepared[0]} changes speech before the front end")
    experiment = load_experiment(place, checkpoint)
    model = experiment.model
    if (reason := obstacle(model, config)) is not None:
        raise UserError(f"{place} cannot be exported: {reason}")
    if reads_language(model):
        raise UserError(f"{place} cannot be exported: its decoder reads the token of a language")
    possible = searches(model)
    chosen = search or next(iter(possible), None)
    if chosen not in possible:
        raise UserError(f"{place} cannot be exported with --search {chosen}: it has {', '.join(possible)}")
    if possible[chosen]:
        way = ": export its CTC layer with --search ctc" if "ctc" in possible else ""
        raise UserError(f"{place} cannot be exported: {possible[chosen]}{way}")
    attention = chosen == "attention"
    states = [list(s) for s in state_shapes(model)] if chosen == "transducer" else []
    settings = Settings(
        chosen,
        blank=blank(model),
        end=int(model.eos) if attention else -1,
        states=[list(cache_shape(model))] if attention else states,
        beam_size=beam_size if attention else 1,
        ctc_weight=ctc_weight if attention and ctc_layer(model) is not None else 0.0,
    )
    return Source(experiment, config, settings, experiment.rate or DEFAULT_RATE)
