"""The commands of ``espnet-kd``, and the option parser that each of them has."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from espnet_kd.errors import UserError


class Command(NamedTuple):
    """A row of the table of commands.

    Attributes:
        module: where its ``main(argv)`` is, or ``MODULE:FUNCTION``.
        text: what it does; the description in ``espnet-kd NAME --help``.
        example: its options in a command that works inside a recipe of egs/.
    """

    module: str
    text: str
    example: str


# To add a command, write its module and add a row here, under the heading where a user looks for it.
GROUPS: dict[str, dict[str, Command]] = {
    "train": {
        "train": Command(
            "espnet_kd.tasks.train",
            "train a student with distillation (ESPnet's options and ours)",
            "--task asr --config conf/train_student_kd.yaml --output_dir exp/student",
        ),
        "check": Command(
            "espnet_kd.tasks.check",
            "find mistakes in a student's configuration before its teachers are trained",
            "--config conf/student_conformer.yaml conf/kd_kl.yaml --teacher exp/teacher "
            "--teacher_config conf/teacher_conformer.yaml --token_list data/token_list/char/tokens.txt",
        ),
        "merge": Command(
            "espnet_kd.config",
            "merge YAML configurations, the later over the earlier",
            "conf/student_conformer.yaml conf/kd_ctc_kl.yaml --out conf/train_student_kd.yaml",
        ),
    },
    "data": {
        "prepare": Command(
            "espnet_kd.corpora.prepare",
            "make Kaldi data directories from a corpus",
            "an4 data",
        ),
        "perturb": Command(
            "espnet_kd.data.perturb",
            "add copies of a data directory at other speeds",
            "--factors '0.9 1.0 1.1' data/train data/train_sp",
        ),
        "format": Command(
            "espnet_kd.data.format",
            "write the audio of a data directory into dump/",
            "--nj 4 --fs 16k data/train dump/raw/org/train",
        ),
        "lengths": Command(
            "espnet_kd.data.dump",
            "drop utterances that are too short or too long",
            "--min 0.1 --max 20 dump/raw/org/train dump/raw/train",
        ),
        "tokens": Command(
            "espnet_kd.data.tokens",
            "make a token list",
            "--token_type char --text dump/raw/train/text --out data/token_list/char",
        ),
    },
    "teacher and targets": {
        "targets": Command(
            "espnet_kd.targets.command",
            "write a teacher's targets to disk, or verify them",
            "--store targets/ctc --config conf/kd_ctc_kl.yaml --teacher exp/teacher "
            "--data dump/raw/train dump/raw/dev",
        ),
        "pseudo-label": Command(
            "espnet_kd.pseudo_label.command",
            "transcribe a data directory with a teacher or another labeller, and filter the transcripts",
            "--teacher exp/teacher --data dump/raw/unlabelled --dst dump/raw/pseudo",
        ),
        "label-table": Command(
            "espnet_kd.report.labels",
            "compare sets of pseudo-labels by what is kept of them and by their error rates",
            "raw=dump/raw/pseudo filtered=dump/raw/filtered --out LABELS.md",
        ),
        "mix": Command(
            "espnet_kd.pseudo_label.mix",
            "put labelled and pseudo-labelled speech into one training set, at a given ratio",
            "--labelled dump/raw/train --pseudo dump/raw/pseudo --share 0.5 --token_type char "
            "--token_list data/token_list/char/tokens.txt dump/raw/mixed",
        ),
        "kept-mass": Command(
            "espnet_kd.report.coverage",
            "show how much of a teacher's posteriors the k most probable classes keep",
            "--teacher exp/teacher --data dump/raw/dev --out coverage",
        ),
    },
    "experiments": {
        "experiments": Command(
            "espnet_kd.experiments.command",
            "train and decode the rows of a plan, or show what there is to do",
            "plans/tutornet.yaml --dry_run",
        ),
    },
    "decode and score": {
        "transcribe": Command(
            "espnet_kd.commands.transcribe",
            "print the texts of audio files, or of a microphone or other pipe",
            "exp/student speech.wav",
        ),
        "decode-ensemble": Command(
            "espnet_kd.decoding.command",
            "decode with the mean posteriors of several CTC/attention models",
            "--teacher exp/teacher_1 exp/teacher_2 --data dump/raw/test --out exp/ensemble",
        ),
        "score": Command(
            "espnet_kd.scoring.score",
            "count the word and character errors (WER, CER) of one decoded set",
            "--ref dump/raw/test/text --hyp exp/student/inference/test/text --out exp/student/inference/test",
        ),
        "score-eval2000": Command(
            "espnet_kd.scoring.hub5",
            "compute the official WER of Hub5'00, by NIST's hubscr.pl",
            "--data data/eval2000 exp/student/inference/eval2000",
        ),
        "best": Command(
            "espnet_kd.report.command:main_best",
            "print which of some experiments has the lowest error rate on a set",
            "--decoded inference/dev exp/student_1 exp/student_2",
        ),
        "report": Command(
            "espnet_kd.report.command",
            "write the tables and plots of a plan, or RESULTS.md of the experiments of a recipe",
            "--expdir exp --test_sets test --valid_set dev --out RESULTS.md",
        ),
    },
    "deploy": {
        "demo-page": Command(
            "espnet_kd.report.page",
            "write a web page that plays utterances and shows what teachers and students made of them",
            "--data dump/raw/test --out demo.html",
        ),
        "shrink": Command(
            "espnet_kd.commands.shrink",
            "write a smaller model with the layers and channels of a trained one, or without what was pruned",
            "exp/teacher --config conf/student_conformer.yaml --out exp/smaller",
        ),
        "export": Command(
            "espnet_kd.export.command",
            "write a trained experiment as ONNX graphs, and check that they transcribe as it does",
            "exp/student --check dump/raw/dev --tolerance 0.2",
        ),
    },
    "inspect": {
        "doctor": Command(
            "espnet_kd.commands.doctor",
            "list what this machine lacks, and check what its GPUs compute",
            "",
        ),
        "layers": Command(
            "espnet_kd.commands.inspect:main_layers",
            "list the layers of a model that a criterion can tap, with shapes and frame rates",
            "exp/teacher --depth 2",
        ),
        "sizes": Command(
            "espnet_kd.commands.inspect:main_sizes",
            "count the parameters of the models of configurations; no tensor is filled",
            "conf/teacher_conformer.yaml conf/student_conformer.yaml --tokens 30",
        ),
        "batches": Command(
            "espnet_kd.data.batches",
            "say how much speech a training puts on a GPU at a time, and whether that is known to fit",
            "conf/student_conformer.yaml --ngpu 1 --config_ngpu 4 "
            "--shapes exp/asr_stats_raw_char/train/speech_shape exp/asr_stats_raw_char/train/text_shape.char",
        ),
        "frame-weights": Command(
            "espnet_kd.report.frame_weights",
            "plot how much each frame of an utterance counts, above the teacher's CTC posteriors",
            "exp/teacher --data dump/raw/dev --out frame_weights.png",
        ),
        "evaluate-teacher": Command(
            "espnet_kd.decoding.evaluate",
            "decode a set with any teacher, and score it",
            "openai/whisper-tiny.en --kind hf --data dump/raw/test --out exp/whisper/test",
        ),
        "measure": Command(
            "espnet_kd.commands.measure",
            "measure speed, latency, memory and size of trained models, side by side",
            "exp/teacher exp/student --data dump/raw/test",
        ),
        "delay": Command(
            "espnet_kd.commands.delay",
            "measure how much later than its teacher a student emits tokens, on transcribed speech",
            "--teacher exp/teacher --student exp/student --data dump/raw/dev",
        ),
    },
    "plumbing of kd.sh": {
        "statistics": Command(
            "espnet_kd.data.statistics",
            "print the statistics directory that fits a configuration",
            "exp/asr_stats_raw_char conf/student_conformer.yaml",
        ),
        "token-from": Command(
            "espnet_kd.commands.token_from",
            "make a student's token list of the teacher's",
            "exp/teacher --token_type bpe --out data/token_list/teacher",
        ),
        "contents": Command(
            "espnet_kd.data.contents",
            "print the fingerprints of files and data directories",
            "dump/raw/train data/token_list/char/tokens.txt",
        ),
        "runs": Command(
            "espnet_kd.commands.runs",
            "record what made an experiment directory, and whether it is finished",
            "start exp/student --role student --config conf/student_conformer.yaml -- ./run.sh",
        ),
        "phases": Command(
            "espnet_kd.commands.phases",
            "join the speech of a training phase that needs no transcripts",
            "--sets dump/raw/train --out exp/student/speech --config conf/kd_rkd.yaml",
        ),
        "peers": Command(
            "espnet_kd.commands.peers",
            "give every peer of a mutual training an experiment directory of its own",
            "exp/mutual",
        ),
        "check-lm": Command(
            "espnet_kd.decoding.language_model",
            "check that a language model has the tokens of the models that it decodes with",
            "--lm_train_config exp/lm/config.yaml --lm_file exp/lm/valid.loss.ave.pth exp/student",
        ),
        "download-model": Command(
            "espnet_kd.commands.hub:main_download",
            "make a published or packed model an experiment of this recipe",
            "asr_student_valid.acc.ave.zip --expdir exp",
        ),
        "upload": Command(
            "espnet_kd.commands.hub:main_upload",
            "upload a packed model to Hugging Face",
            "exp/student/student_valid.acc.ave.zip --repo user/student",
        ),
        "adopt": Command(
            "espnet_kd.commands.adopt",
            "make a directory here in which a teacher of another recipe is decoded",
            "../../other/asr1/exp/teacher --expdir exp",
        ),
        "parts": Command(
            "espnet_kd.decoding.parts",
            "find the sets that a development set consists of, or join their hypotheses to its own",
            "--set dump/raw/dev --among dump/raw/dev_clean dump/raw/dev_other",
        ),
        "dry-run": Command(
            "espnet_kd.commands.dry_run",
            "print what the stages of kd.sh would do, make and cost: ./run.sh --dry_run true",
            "--stages 1 2 --option fs=16k",
        ),
        "progress": Command(
            "espnet_kd.commands.progress",
            "follow a training log, with a progress bar on a terminal",
            "exp/student/train.log --pid 12345",
        ),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


def usage() -> str:
    """Return the list of commands by group, with an example of each."""
    lines = ["usage: espnet-kd [--debug] COMMAND [OPTION ...]", "       espnet-kd COMMAND --help", ""]
    lines += ["--debug, or ESPNET_KD_DEBUG=1 in the environment, shows where in the code an error arises."]
    width = max(map(len, COMMANDS))
    for group, commands in GROUPS.items():
        lines += ["", f"{group}:"]
        for name, command in commands.items():
            lines += [f"  {name:<{width}}  {command.text}", f"  {'':<{width}}    {example(name)}"]
    return "\n".join(lines)


def example(name: str) -> str:
    """Return a command line that shows the use of a command."""
    return f"espnet-kd {name} {COMMANDS[name].example}".rstrip()


LARGEST = 2**31 - 1  # integers beyond it do not fit into the integers of C libraries


class Store(argparse._StoreAction):
    """Store the values of an option; of one that takes several and is given several times, all of them."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        before = getattr(namespace, self.dest)
        if self.nargs in ("*", "+") and before is not self.default:
            values = [*before, *values]
        super().__call__(parser, namespace, values, option_string)


class Parser(argparse.ArgumentParser):
    """A parser that refuses values which the system or a library cannot use, before anything is done."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """Take what ``argparse.ArgumentParser`` takes; its options are stored by ``Store``."""
        super().__init__(*args, **options)
        self.register("action", None, Store)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse a command line.

        Raises:
            UserError: the name of a path is too long, a link in it leads back to itself, or a directory above
                it cannot be entered; an integer has more than 32 bits. A path that does not exist is refused
                where it is read.
        """
        parsed = super().parse_args(args, namespace)
        for option, values in vars(parsed).items():
            for value in values if isinstance(values, list) else [values]:
                if isinstance(value, Path):
                    check_path(value)
                elif isinstance(value, int) and abs(value) > LARGEST:
                    raise UserError(f"--{option} {value}: give a number of at most {LARGEST}")
        return parsed


def check_path(path: Path) -> None:
    """Refuse a path of which the system does not even say whether it exists.

    Raises:
        UserError: see ``Parser.parse_args``.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as e:  # ValueError: a NUL in the name
        reason = getattr(e, "strerror", None) or e
        raise UserError(f"{str(path)[:200]} cannot be used: {reason}: give another path") from None


def path_text(text: str) -> str:
    """Check a path as ``Parser`` does, for an option whose value stays the text that the user wrote."""
    try:
        check_path(Path(text))
    except UserError as e:  # of a UserError, a ValueError, argparse would show the name of this function only
        raise argparse.ArgumentTypeError(str(e)) from None
    return text


def command_parser(name: str, text: str = "") -> argparse.ArgumentParser:
    """Return an empty parser of options, whose ``--help`` describes a command and shows an example.

    Args:
        name: name of a command, or of one of its parts, such as ``prepare an4``.
        text: description of a part; for a command, the table has it.
    """
    command = name.split(" ")[0]
    text = text or COMMANDS[command].text
    return Parser(
        prog=f"espnet-kd {name}",
        description=f"{text[0].upper()}{text[1:].strip().rstrip('.')}.",
        epilog=f"example:\n  {example(name)}" if name == command else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,  # else an example is broken at its hyphens
    )
