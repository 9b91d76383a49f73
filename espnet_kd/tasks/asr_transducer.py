"""ESPnet's transducer task, with our RNN-T loss and with a teacher."""

import argparse

from espnet2.asr_transducer.espnet_transducer_model import ESPnetASRTransducerModel
from espnet2.tasks.asr_transducer import ASRTransducerTask

from espnet_kd.models.transducer import with_lattice_loss
from espnet_kd.tasks.attach import attach_teacher, wanted
from espnet_kd.tasks.mixed_batches import MixedBatches
from espnet_kd.tasks.mutual import with_peers
from espnet_kd.tasks.options import add_arguments, check_options, read_numbers
from espnet_kd.tasks.speech import TeacherSpeech
from espnet_kd.tasks.start import Workers, check_utterances
from espnet_kd.tasks.trainer import ResumableTrainer


class TransducerDistillationTask(Workers, TeacherSpeech, MixedBatches, ASRTransducerTask):
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
        if wanted(args) and not args.collect_stats:
            attach_teacher(model, args)
        if not args.collect_stats:
            with_peers(model, args, super().build_model)
        return model if hasattr(model, "kd_step") else with_lattice_loss(model)
