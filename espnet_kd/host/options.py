"""ESPnet's command lines: types of options, options of decoding, and its tools for tokens.

Importing this module imports next to nothing of ESPnet; what is large is imported where it is needed.
"""

import argparse
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from espnet_kd.host.installed import check_espnet

check_espnet()  # before anything of ESPnet is imported

from espnet2.utils.nested_dict_action import NestedDictAction
from espnet2.utils.types import str2bool

from espnet_kd.errors import UserError

__all__ = ["NestedDictAction", "str2bool"]

# Modules that build and decode models, by task; each has get_parser() and a class of SEARCHES.
INFERENCE = {"asr": "espnet2.bin.asr_inference", "asr_transducer": "espnet2.bin.asr_transducer_inference"}
BLOCKWISE = "asr_streaming"  # stands for the task asr where a contextual block encoder gets speech in chunks
INFERENCE[BLOCKWISE] = "espnet2.bin.asr_inference_streaming"
SEARCHES = dict.fromkeys(INFERENCE, "Speech2Text") | {BLOCKWISE: "Speech2TextStreaming"}
REQUIRED = ("--output_dir", "none", "--data_path_and_name_and_type", "none,speech,sound")  # by its parser
# Arguments of Speech2Text that do not come from the options of decoding.
OURS = {"asr_train_config", "asr_model_file", "device"}


def decoding_options(
    task: str, words: Sequence[str], refuse: Callable[[str], NoReturn]
) -> argparse.Namespace:
    """Parse options of decoding as ``espnet2.bin.asr_inference`` does, with its defaults.

    Args:
        task: ``asr``, ``asr_transducer`` or ``BLOCKWISE``.
        words: of the command line.
        refuse: called with the message of an error; it raises.
    """
    parser = importlib.import_module(INFERENCE[task]).get_parser()
    parser.error = refuse
    model = ("--asr_train_config", "none", "--asr_model_file", "none") if task == BLOCKWISE else ()
    args: argparse.Namespace = parser.parse_args([*REQUIRED, *model, *words])
    return args


def search_arguments(task: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of decoding that are arguments of the search, without model and device."""
    search = getattr(importlib.import_module(INFERENCE[task]), SEARCHES[task])
    names = inspect.signature(search).parameters.keys() - OURS
    return {name: getattr(args, name) for name in sorted(names) if hasattr(args, name)}


def write_token_counts(
    text: Path, counted: Path, token_type: str, symbols: Path | None, others: Mapping[str, str]
) -> None:
    """Count characters or words by ``espnet2.bin.tokenize_text``, as stage 5 of ESPnet's asr.sh does.

    Args:
        text: sentences, one a line.
        counted: gets the tokens by falling frequency, one a line; a space is ``<space>``.
        token_type: ``char`` or ``word``.
        symbols: file of symbols that are tokens of their own.
        others: further options, such as ``cleaner``.

    Raises:
        UserError: ESPnet does not know one of their values.
    """
    from espnet2.bin.tokenize_text import get_parser, tokenize

    options = ["--input", str(text), "--output", str(counted), "--token_type", token_type]
    options += ["--write_vocabulary", "true", "--log_level", "WARNING"]
    options += ["--non_linguistic_symbols", str(symbols or "none")]
    options += [word for name, value in others.items() for word in (f"--{name}", value)]

    def refuse(message: str) -> NoReturn:
        raise UserError(f"ESPnet's tokenize_text: {message}")

    parser = get_parser()
    parser.error = refuse
    tokenize(**vars(parser.parse_args(options)))


def text_cleaner(name: str) -> Callable[[str], str]:
    """Return ESPnet's cleaning of text; ``none`` changes nothing.

    Raises:
        UserError: ESPnet does not know it.
    """
    from espnet2.text.cleaner import TextCleaner

    clean: Callable[[str], str] = TextCleaner(None if name == "none" else name)
    try:
        clean("a")
    except RuntimeError as e:
        raise UserError(f"--cleaner {name}: {e}: known are none, tacotron, jaconv and vietnamese") from None
    return clean


def text_tokenizer(
    token_type: str, bpemodel: str | None, symbols: str | None, cleaner: str = "none"
) -> Callable[[str], list[str]]:
    """Return a function that splits a text into tokens as ESPnet's preprocessing does.

    Args:
        token_type: ``bpe``, ``char`` or ``word``.
        bpemodel: file of a sentencepiece model, for ``bpe``.
        symbols: file of symbols that are tokens of their own.
        cleaner: ESPnet's cleaning of the text before.
    """
    from espnet2.text.build_tokenizer import build_tokenizer

    tokenizer = build_tokenizer(token_type, bpemodel=bpemodel, non_linguistic_symbols=symbols)
    clean = text_cleaner(cleaner)
    return lambda text: tokenizer.text2tokens(clean(text))


def token_counter(
    token_type: str, bpemodel: str | None, symbols: str | None, cleaner: str = "none"
) -> Callable[[str], int]:
    """Return a function that counts the tokens of a text, see ``text_tokenizer``."""
    split = text_tokenizer(token_type, bpemodel, symbols, cleaner)
    return lambda text: len(split(text))
