"""ESPnet's tasks ``asr`` and ``asr_transducer``, with distillation."""

import argparse

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr_transducer.espnet_transducer_model import ESPnetASRTransducerModel
from espnet2.tasks.asr import ASRTask
from espnet2.tasks.asr_transducer import ASRTransducerTask

from espnet_kd.encoders.register import register_encoders
from espnet_kd.methods.attach import asks_for_distillation, attach_teacher
from espnet_kd.methods.mutual_options import with_peers
from espnet_kd.methods.options import add_arguments, check_options, read_numbers
from espnet_kd.methods.start import Workers, check_utterances
from espnet_kd.methods.target_choice import check_transcripts
from espnet_kd.methods.transducer import with_lattice_loss
from espnet_kd.tasks.mixed_batches import MixedBatches
from espnet_kd.tasks.trainer import ResumableTrainer
from espnet_kd.teachers.experiment import naming_stand_in
from espnet_kd.teachers.speech import TeacherSpeechTask

register_encoders()  # here, because the processes of several GPUs import nothing but this module


class ASRDistillationTask(Workers, TeacherSpeechTask, MixedBatches, ASRTask):
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
        if asks_for_distillation(args):
            attach_teacher(model, args)
        return with_peers(model, args, super().build_model)


class TransducerDistillationTask(Workers, TeacherSpeechTask, MixedBatches, ASRTransducerTask):
    """Transducers of stock ESPnet, distilled from stock ESPnet experiments.

    Without our options it trains the stock model, with the RNN-T loss of espnet_kd.rnnt: no other package
    is needed for that, and the lattice is never in memory.
    """

    trainer = ResumableTrainer

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add ESPnet's options and ours."""
        super().add_task_arguments(parser)
        add_arguments(parser)

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> ESPnetASRTransducerModel:
        """Build the stock model; when it is to be trained with a teacher or with peers, attach those."""
        read_numbers(args)
        check_utterances(args)
        model = super().build_model(args)
        check_options(args, len(model.token_list))
        if asks_for_distillation(args) and not args.collect_stats:
            attach_teacher(model, args)
        if not args.collect_stats:
            with_peers(model, args, super().build_model)
        return model if hasattr(model, "kd_step") else with_lattice_loss(model)
