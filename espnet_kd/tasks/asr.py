"""ESPnet's tasks ``asr`` and ``asr_transducer``, whose models train with our methods."""

import argparse
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr_transducer.espnet_transducer_model import ESPnetASRTransducerModel
from espnet2.tasks.abs_task import AbsTask
from espnet2.tasks.asr import ASRTask
from espnet2.tasks.asr_transducer import ASRTransducerTask

from espnet_kd.command_line import example
from espnet_kd.config import parse_yaml, read_config, with_numbers
from espnet_kd.data import batches
from espnet_kd.data.audio import parse_rate, rate_of
from espnet_kd.data.dump import are_hypotheses
from espnet_kd.data.tables import SortedTable, unshared_keys
from espnet_kd.encoders.register import register_encoders
from espnet_kd.errors import UserError, debugging, error_line
from espnet_kd.files import iterate_rows, table_files
from espnet_kd.host.options import NestedDictAction
from espnet_kd.host.outputs import CHECKPOINT
from espnet_kd.host.training import gpus_of, has_ended, named_classes, reported_by, writes_files
from espnet_kd.methods import METHODS, SCHEDULED, active, check_methods, registered
from espnet_kd.methods.distillation import check_transcripts
from espnet_kd.methods.initialise import check_frozen, check_initial
from espnet_kd.methods.method import Preprocess
from espnet_kd.methods.transducer import LatticeTransducer, with_lattice_loss
from espnet_kd.schedule import stretched
from espnet_kd.tasks.trainer import ResumableTrainer, only_training
from espnet_kd.teachers.checkpoint import load_checkpoint
from espnet_kd.teachers.experiment import naming_stand_in

register_encoders()  # here, because the processes of several GPUs import nothing but this module
UNKNOWN = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")
TABLES = ("sound", "kaldi_ark", "npy")  # types of ESPnet's data that have an utterance a line


class StrictDictAction(NestedDictAction):
    """ESPnet's action for mappings on the command line, KEY=YAML or a whole mapping, read strictly."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: str, option_strings: str | None = None
    ) -> None:
        """Check the YAML, then do what ESPnet's action does."""
        parse_yaml(values.partition("=")[2] if "=" in values else values, f"--{self.dest} {values!r}")
        try:
            super().__call__(parser, namespace, values, option_strings)
        except yaml.YAMLError:  # the parser in Python takes no tabs
            raise UserError(f"--{self.dest} {values!r}: not YAML") from None


class WithMethods(AbsTask):
    """What methods change in a task of ESPnet: options, batches, the model and the trainer."""

    trainer = ResumableTrainer
    prepared: tuple[argparse.Namespace | None, Preprocess | None] = None, None  # of a training in parts

    @classmethod
    def main_worker(cls, args: argparse.Namespace) -> None:
        """Train, in this process or in one that was started for a GPU; show a user's mistake in one line."""
        try:
            check_inputs(args, named_classes(cls))
            fit_batches(args)
            alone = not args.collect_stats and writes_files(args)
            with only_training(Path(args.output_dir)) if alone else nullcontext():  # config.yaml, too
                super().main_worker(args)
        except UserError as e:  # as in espnet_kd.__main__, which only the first process goes through
            if args.distributed and args.multiprocessing_distributed and not debugging():
                sys.exit(error_line(e))
            raise

    @classmethod
    def check_required_command_args(cls, args: argparse.Namespace) -> None:
        """Refuse a command line without an option that is needed; ESPnet prints all its options before that.

        Raises:
            UserError: neither the command line nor --config has it.
        """
        missing = ", ".join(f"--{name}" for name in args.required if getattr(args, name) is None)
        if missing:
            raise UserError(
                f"train needs {missing}: give that, or write it into --config; "
                "`espnet-kd train --help` lists all options"
            )
        super().check_required_command_args(args)

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add ESPnet's options, and those of every method."""
        super().add_task_arguments(parser)
        add_arguments(parser)

    @classmethod
    def build_preprocess_fn(cls, args: argparse.Namespace, train: bool) -> Preprocess | None:
        """Build ESPnet's preparation of an utterance, changed by the methods that are used.

        A training whose tables are split asks for it in every part of every epoch. What methods read for it,
        such as all n-best lists, takes minutes: it is kept.
        """
        if train and args.multiple_iterator and cls.prepared[0] is args:
            return cls.prepared[1]
        prepare: Preprocess | None = super().build_preprocess_fn(args, train)
        for method in [] if args.collect_stats else active(vars(args)):
            prepare = method.preprocess(args, train, prepare)
        if train and args.multiple_iterator:
            cls.prepared = args, prepare
        return prepare

    @classmethod
    def build_sequence_iter_factory(cls, args: argparse.Namespace, iter_options: Any, mode: str) -> Any:
        """Build ESPnet's batches, changed by the methods that are used."""
        build = super().build_sequence_iter_factory
        for method in active(vars(args)):
            build = partial(method.batches, stock=build)
        return build(args, iter_options, mode)

    @classmethod
    def build_stock(cls, args: argparse.Namespace) -> Any:
        """Build the model without methods.

        Raises:
            UserError: a part of it does not know one of its options.
        """
        read_numbers(args)
        try:
            with naming_stand_in("the student"):
                return super().build_model(args)
        except TypeError as e:
            if (found := UNKNOWN.search(str(e))) is None:
                raise
            part, option = found.groups()
            confs = {key: conf for key, conf in vars(args).items() if key.endswith("_conf")}
            having = [key for key, conf in confs.items() if option in (conf or ())]
            # Encoder and decoder may both have it, and classes are named by what they are.
            where = [key for key in having if key.removesuffix("_conf") in part.lower()] or having
            begin = " or ".join(where) or "the model"
            raise UserError(f"{begin}: {option} is no option of {part}: leave it out") from e

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> Any:
        """Build the stock model and apply the methods that are used; none when statistics are collected.

        Their options are not even read then: a recipe gives a training's options, but no `--kd_config`.
        """
        check_utterances(args)
        model = cls.build_stock(args)
        if args.collect_stats:
            return model
        check_initial(model, args.init_param, args.ignore_init_mismatch)
        check_frozen(model, args.freeze_param)
        methods = check_methods(model, args)
        for method in methods:
            model = method.attach(model, args, cls.build_stock)
        refuse_ended(args)  # now that the options are as config.yaml has them
        model.kd_methods = methods
        return model


class ASRDistillationTask(WithMethods, ASRTask):
    """Stock ESPnet models with CTC, attention or both, and hybrids; encoders may be ours, too."""

    @classmethod
    def required_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        """Return speech alone: ``build_model`` knows whether the training needs text."""
        return ("speech",)

    @classmethod
    def optional_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        """Return ESPnet's names, and text."""
        return ("text", *super().optional_data_names(train, inference))

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> ESPnetASRModel:
        """Build the model; it may train without text."""
        check_transcripts(args)
        return super().build_model(args)


class TransducerDistillationTask(WithMethods, ASRTransducerTask):
    """Stock ESPnet transducers, with the RNN-T loss of espnet_kd.rnnt.

    It needs no other package, and the lattice is never in memory.
    """

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> ESPnetASRTransducerModel:
        """Build the model with our loss."""
        model = super().build_model(args)
        return model if isinstance(model, LatticeTransducer) else with_lattice_loss(model)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of every method to ESPnet's parser."""
    parser.prog, parser.epilog = "espnet-kd train", f"example: {example('train')}"
    parser.register("action", "mapping", StrictDictAction)
    group = parser.add_argument_group("Distillation")
    for method in registered():
        method.add_arguments(group)
    text = "Number of all GPUs for which batch_bins and accum_grad are written; on another number both are "
    text += "converted; 0: they never are"
    group.add_argument("--config_ngpu", type=int, default=0, help=text)


def fit_batches(args: argparse.Namespace) -> None:
    """Change batches and schedules to the GPUs that train, see ``data/batches.py``.

    Raises:
        UserError: a training with schedules, which count batches, continues on another number of GPUs.
    """
    if args.collect_stats or not args.config_ngpu:
        return
    gpus = gpus_of(args)
    factor = batches.fit(args, gpus)
    args.config_ngpu = gpus or args.config_ngpu  # the config.yaml that ESPnet writes is for these GPUs
    counted = {key: getattr(args, key) for key in SCHEDULED}
    if stretched(counted, 2) == counted:
        return
    trained = options_before(args)
    if trained and trained["accum_grad"] != args.accum_grad:
        raise UserError(
            f"{args.output_dir} was trained with accum_grad {trained['accum_grad']}, and {gpus} GPUs give "
            f"{args.accum_grad}: its schedules count batches, so continue on as many GPUs as before"
        )
    for key, value in counted.items():
        setattr(args, key, stretched(value, factor))


def options_before(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the training that goes on; none if it was killed when ESPnet wrote them."""
    before = Path(args.output_dir, "config.yaml")
    if not (args.resume and before.is_file() and Path(args.output_dir, CHECKPOINT).is_file()):
        return {}
    try:
        trained = read_config(before)
    except UserError:
        return {}
    return trained if "version" in trained else {}  # it comes after all options


def refuse_ended(args: argparse.Namespace) -> None:
    """Refuse other methods for a training that has ended: config.yaml would have them, the model not.

    Raises:
        UserError: names the options that differ.
    """
    # ESPnet3 has no such option. The first process of several writes config.yaml while others may be here.
    if not getattr(args, "resume", False) or not writes_files(args) or not (before := options_before(args)):
        return
    defaults = {"task_weight": 1.0}
    keys = [key for keys in METHODS.values() for key in keys] + list(defaults)
    trained = defaults | before
    differing = [key for key in keys if (trained.get(key) or 0) != (getattr(args, key) or 0)]
    if differing and has_ended(reported_by(load_checkpoint(Path(args.output_dir, CHECKPOINT))), args):
        raise UserError(
            f"{args.output_dir} is trained already, with another {' and '.join(differing)}: give the new "
            "training a directory of its own (in asr.sh by the name of its configuration, or --asr_tag)"
        )


def read_numbers(args: argparse.Namespace) -> None:
    """Make numbers of texts like 1e-3 in ESPnet's mappings (``optim_conf``), as ESPnet does elsewhere."""
    for key, value in vars(args).items():
        if key.endswith("_conf"):
            setattr(args, key, with_numbers(value))


def check_inputs(args: argparse.Namespace, known: Mapping[str, Sequence[str]]) -> None:
    """Refuse files that do not exist and names that ESPnet does not know, before it builds anything.

    Args:
        args: all options of a training.
        known: names that ESPnet knows, by the option that takes one of them, such as ``encoder``.

    Raises:
        UserError: names the option, its value and what would do.
    """
    for option, names in known.items():
        value = getattr(args, option, None)
        if value is not None and value not in names:
            raise UserError(f"{option} is {value!r}: choose one of {', '.join(names)}")
    for option in ("token_list", "bpemodel"):
        value = getattr(args, option, None)
        if isinstance(value, str) and value not in ("", "none") and not Path(value).is_file():
            raise UserError(f"{option}: {value} does not exist, or is no file")
    for part in ("train", "valid"):
        data, shapes = f"{part}_data_path_and_name_and_type", f"{part}_shape_file"
        given = {data: [row[0] for row in getattr(args, data)], shapes: getattr(args, shapes)}
        if not given[data]:
            raise UserError(f"--{data} is missing: give PATH,NAME,TYPE, as dump/raw/{part}/text,text,text")
        if args.iterator_type == "sequence" and not args.collect_stats and not given[shapes]:
            raise UserError(f"--{shapes} is missing: give the file that --collect_stats writes")
        for option, paths in given.items():
            for path in paths:
                if not Path(path).exists():
                    raise UserError(f"--{option}: {path} does not exist")
    check_rate(args)


def check_rate(args: argparse.Namespace) -> None:
    """Refuse speech at another sampling rate than that of the front end, which ESPnet never compares.

    Raises:
        UserError: the first utterance of training or validation has another one.
    """
    fs = (getattr(args, "frontend_conf", None) or {}).get("fs")
    if fs is None or getattr(args, "input_size", None) is not None:
        return
    rows = args.train_data_path_and_name_and_type + args.valid_data_path_and_name_and_type
    files = [file for path, name, _ in rows if name == "speech" for file in table_files(path)[:1]]
    for table in files:
        utt, wav = next(iterate_rows(table), ("", ""))  # the first: data of one directory have one rate
        rate = rate_of(wav, utt)
        if rate not in (None, parse_rate(str(fs))):
            raise UserError(
                f"{table}: {utt} has {rate} samples a second, but the front end is for {fs} (--fs, or fs in "
                "frontend_conf): give the rate of the audio, or format the audio again (stage 3)"
            )


def check_utterances(args: argparse.Namespace) -> None:
    """Refuse shape files that lack pseudo-labelled speech: ESPnet trains on the utterances that they list.

    Raises:
        UserError: names the first pseudo-labelled utterance that is missing.
    """
    data, files = args.train_data_path_and_name_and_type or [], args.train_shape_file or []
    if args.collect_stats or not files or not data or data[0][2] not in TABLES:
        return
    if not (Path(data[0][0]).is_file() and Path(files[0]).is_file()):
        return  # asr.sh's --num_splits_asr: directories of parts, split by the shape files
    path, speech, named = data[0][0], SortedTable(data[0][0]), SortedTable(files[0])
    lacking = [utt for utt, side in unshared_keys(speech.ids(), named.ids()) if side == 0]
    if not lacking:
        return
    if pseudo := [utt for utt, label in zip(lacking, are_hypotheses(lacking), strict=True) if label]:
        labelled = sum(are_hypotheses([utt])[0] for utt in speech.ids())
        raise UserError(
            f"{len(pseudo)} of {labelled} pseudo-labelled utterances of {path}, such as {pseudo[0]}, "
            f"are not in {files[0]}, which lists what ESPnet trains on: collect the statistics of this "
            "speech first (stage 10 of asr.sh, with an --asr_stats_dir of its own)"
        )
    logging.warning(
        f"{len(lacking)} of {len(speech)} utterances of {path} are not in {files[0]}: they are not trained on"
    )
