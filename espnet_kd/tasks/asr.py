"""ESPnet's ASR task, with a teacher."""

import argparse

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.tasks.asr import ASRTask

from espnet_kd.encoders.register import register_encoders
from espnet_kd.tasks.attach import attach_teacher, wanted
from espnet_kd.tasks.mixed_batches import MixedBatches
from espnet_kd.tasks.mutual import with_peers
from espnet_kd.tasks.options import add_arguments, check_options, read_numbers
from espnet_kd.tasks.speech import TeacherSpeech
from espnet_kd.tasks.start import Workers, check_utterances
from espnet_kd.tasks.trainer import ResumableTrainer
from espnet_kd.tasks.transcripts import check_transcripts
from espnet_kd.teachers.experiment import naming_stand_in

register_encoders()  # here, because the processes of several GPUs import nothing but this module


class ASRDistillationTask(Workers, TeacherSpeech, MixedBatches, ASRTask):
    """Students of stock ESPnet with CTC, attention or both, and hybrids, distilled from stock experiments.

    Without our options it trains the stock model. Both may have an encoder of ours.
    """

    trainer = ResumableTrainer

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add ESPnet's options and ours."""
        super().add_task_arguments(parser)
        add_arguments(parser)

    @classmethod
    def required_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        """Text is not among them: ``build_model`` knows whether the training needs it."""
        return ("speech",)

    @classmethod
    def optional_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        """ESPnet's, and text."""
        return ("text", *super().optional_data_names(train, inference))

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> ESPnetASRModel:
        """Build the stock model; when it is to be trained with a teacher or with peers, attach those."""
        read_numbers(args)
        check_utterances(args)
        check_transcripts(args)
        with naming_stand_in("the student"):
            model = super().build_model(args)
        check_options(args, len(model.token_list))
        if args.collect_stats:
            return model
        if wanted(args):
            attach_teacher(model, args)
        return with_peers(model, args, super().build_model)
