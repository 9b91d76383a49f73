"""Test the names of ESPnet that we rely on, and their arguments: each failure names what has broken.

What these names do is tested on models and trainings in test/integration/test_host.py.
"""

import importlib
import inspect
import re
from typing import Any

import pytest

from espnet_kd.host.outputs import TRANSDUCER_KEY

ASR = "espnet2.asr.espnet_model:ESPnetASRModel"
TRANSDUCER = "espnet2.asr_transducer.espnet_transducer_model:ESPnetASRTransducerModel"
TASK, TRAINER = "espnet2.tasks.abs_task:AbsTask", "espnet2.train.trainer:Trainer"
REPORTER = "espnet2.train.reporter:Reporter"
SEARCH = "espnet2.bin.asr_inference:Speech2Text"
OWN_TASK = "espnet_kd/tasks, which overrides it"
# Where ESPnet has a function, the arguments that we give or take, in this order, and what is ours by it.
# "..." stands for any others.
FUNCTIONS: dict[str, tuple[str, str]] = {
    f"{ASR}._calc_ctc_loss": (
        "self encoder_out encoder_out_lens ys_pad ys_pad_lens",
        "host/losses.py: ctc_part, for mutual learning",
    ),
    f"{ASR}._calc_att_loss": (
        "self encoder_out encoder_out_lens ys_pad ys_pad_lens",
        "host/losses.py: attention_part, for mutual learning",
    ),
    f"{ASR}._calc_transducer_loss": (
        "self encoder_out encoder_out_lens labels",
        "host/losses.py: transducer_part, for hybrids with a lattice",
    ),
    f"{TRANSDUCER}._calc_transducer_loss": (
        "self encoder_out joint_out target t_len u_len",
        "host/losses.py: transducer_part, for our RNN-T loss and the lattice",
    ),
    f"{TRANSDUCER}._calc_ctc_loss": (
        "self encoder_out target t_len u_len", "host/losses.py: ctc_part, for batches with pseudo-labels"
    ),
    f"{TRANSDUCER}._calc_lm_loss": (
        "self decoder_out target", "host/losses.py: label_part, for batches with pseudo-labels"
    ),
    f"{ASR}.encode": ("self speech speech_lengths", "host/models.py: encode"),
    f"{TRANSDUCER}.encode": ("self speech speech_lengths", "host/models.py: encode"),
    f"{ASR}.forward": ("self speech speech_lengths text text_lengths ...", "methods/distilled.py"),
    f"{TRANSDUCER}.forward": ("self speech speech_lengths text text_lengths ...", "methods/distilled.py"),
    "espnet2.asr.ctc:CTC.forward": ("self hs_pad hlens ys_pad ys_lens", "teachers/short.py"),
    "espnet2.asr.decoder.transformer_decoder:BaseTransformerDecoder.forward": (
        "self hs_pad hlens ys_in_pad ys_in_lens ...", "methods/sampling_model.py, for scheduled sampling"
    ),
    "espnet2.asr.decoder.transformer_decoder:BaseTransformerDecoder.forward_one_step": (
        "self tgt tgt_mask memory memory_mask cache ...", "methods/sampling_model.py, for own prefixes"
    ),
    "espnet2.legacy.nets.pytorch_backend.transformer.label_smoothing_loss:LabelSmoothingLoss.forward": (
        "self x target", "host/losses.py: leave_out_labels"
    ),
    "espnet2.asr.decoder.rnn_decoder:RNNDecoder.forward": (
        "self hs_pad hlens ys_in_pad ys_in_lens ...", "teachers/online.py"
    ),
    "espnet2.asr_transducer.joint_network:JointNetwork.forward": (
        "self enc_out dec_out no_projection", "methods/transducer.py, which never builds the lattice"
    ),
    "espnet2.asr_transducer.decoder.rnn_decoder:RNNDecoder.rnn_forward": (
        "self x state", "host/models.py: predict_step"
    ),
    "espnet2.asr_transducer.decoder.rnn_decoder:RNNDecoder.init_state": (
        "self batch_size", "host/models.py: predict_step"
    ),
    "espnet2.asr_transducer.decoder.stateless_decoder:StatelessDecoder.forward": (
        "self labels ...", "host/models.py: predict_step"
    ),
    "espnet2.asr_transducer.utils:get_transducer_task_io": (
        "labels encoder_out_lens ignore_id ...", "host/models.py: predicted"
    ),
    "espnet2.asr_transducer.utils:make_chunk_mask": (
        "size chunk_size num_left_chunks device", "host/models.py: in_chunks"
    ),
    "espnet2.legacy.nets.pytorch_backend.transformer.add_sos_eos:add_sos_eos": (
        "ys_pad sos eos ignore_id ...", "host/models.py: decoder_prefix"
    ),
    "espnet2.layers.stft:Stft.__init__": (
        "self n_fft win_length hop_length window ...", "encoders/spectrogram.py and sherpa_fbank.py"
    ),
    "espnet2.layers.log_mel:LogMel.__init__": ("self fs n_fft n_mels ...", "encoders/sherpa_fbank.py"),
    "espnet2.asr.encoder.abs_encoder:AbsEncoder.forward": (
        "self xs_pad ilens ...", "encoders, which are called as stock ones"
    ),
    f"{TASK}.add_task_arguments": ("parser", OWN_TASK),
    f"{TASK}.build_model": ("args", OWN_TASK),
    f"{TASK}.build_preprocess_fn": ("args train", OWN_TASK),
    f"{TASK}.build_iter_factory": ("args distributed_option mode kwargs", OWN_TASK),
    f"{TASK}.build_sequence_iter_factory": ("args iter_options mode", OWN_TASK),
    f"{TASK}.main_worker": ("args", OWN_TASK),
    f"{TASK}.required_data_names": ("train inference", OWN_TASK),
    f"{TASK}.optional_data_names": ("train inference", OWN_TASK),
    f"{TRAINER}.run": (
        "model optimizers schedulers train_iter_factory valid_iter_factory plot_attention_iter_factory "
        "trainer_options distributed_option", "tasks/trainer.py",
    ),
    f"{TRAINER}.resume": ("checkpoint model reporter optimizers schedulers ...", "tasks/trainer.py"),
    f"{TRAINER}.train_one_epoch": ("model iterator optimizers schedulers ...", "tasks/trainer.py"),
    f"{TRAINER}.validate_one_epoch": ("model iterator ...", "tasks/trainer.py"),
    f"{REPORTER}.get_epoch": ("self", "tasks/trainer.py"),
    f"{REPORTER}.has": ("self key key2 ...", "tasks/trainer.py"),
    f"{REPORTER}.get_best_epoch": ("self key key2 mode ...", "tasks/trainer.py"),
    f"{REPORTER}.sort_epochs": ("self key key2 mode", "tasks/trainer.py"),
    f"{REPORTER}.load_state_dict": ("self state_dict", "host/training.py: reported_by"),
    "espnet2.main_funcs.average_nbest_models:average_nbest_models": (
        "output_dir reporter best_model_criterion nbest suffix ...", "host/training.py: average"
    ),
    "espnet2.torch_utils.set_all_random_seed:set_all_random_seed": ("seed", "host/search.py, methods"),
    f"{SEARCH}.__init__": ("self asr_train_config asr_model_file ...", "host/search.py: Search"),
    "espnet2.bin.asr_transducer_inference:Speech2Text.__init__": (
        "self asr_train_config asr_model_file ...", "host/search.py: Search"
    ),
    "espnet2.bin.asr_transducer_inference:Speech2Text.hypotheses_to_results": (
        "self nbest_hyps", "host/search.py: Search"
    ),
    "espnet2.bin.asr_transducer_inference:Speech2Text.streaming_decode": (
        "self speech is_final", "host/streaming.py: StreamingSearch"
    ),
    "espnet2.bin.asr_transducer_inference:Speech2Text.reset_streaming_cache": (
        "self", "host/streaming.py: StreamingSearch"
    ),
    "espnet2.bin.asr_inference_streaming:Speech2TextStreaming.__init__": (
        "self asr_train_config asr_model_file ...", "host/streaming.py: StreamingSearch"
    ),
    "espnet2.bin.asr_inference_streaming:Speech2TextStreaming.__call__": (
        "self speech is_final", "host/streaming.py: StreamingSearch"
    ),
    "espnet2.bin.asr_inference_streaming:Speech2TextStreaming.reset": (
        "self", "host/streaming.py: StreamingSearch"
    ),
    "espnet2.legacy.nets.scorer_interface:BatchScorerInterface.batch_score": (
        "self ys states xs", "decoding/ensemble.py: DecoderScorer"
    ),
    "espnet2.bin.tokenize_text:tokenize": (
        "input output field delimiter token_type space_symbol non_linguistic_symbols ...",
        "host/options.py: write_token_counts",
    ),
    "espnet2.text.build_tokenizer:build_tokenizer": (
        "token_type bpemodel non_linguistic_symbols ...", "host/options.py: token_counter"
    ),
    "espnet2.utils.nested_dict_action:NestedDictAction.__call__": (
        "self parser namespace values option_strings", "tasks/asr.py: StrictDictAction"
    ),
}  # fmt: skip
# Options of both training commands that we read or set, beside those of models.
OPTIONS = """
    train_data_path_and_name_and_type valid_data_path_and_name_and_type train_shape_file valid_shape_file
    collect_stats output_dir seed multiprocessing_distributed init_param freeze_param accum_grad
    best_model_criterion keep_nbest_models patience early_stopping_criterion val_scheduler_criterion scheduler
    iterator_type shuffle_within_batch sort_in_batch token_type token_list bpemodel non_linguistic_symbols
    use_preprocessor noise_scp rir_scp input_size frontend frontend_conf specaug specaug_conf normalize
    normalize_conf encoder_conf decoder decoder_conf model_conf init resume max_epoch use_adapter adapter_conf
""".split()
OF_ASR = ["encoder", "preprocessor_conf", "postencoder", "joint_net_conf"]
OF_TRANSDUCER = ["joint_network_conf"]
# Data classes and the fields that we read.
FIELDS = {
    "espnet2.tasks.abs_task:IteratorOptions": ("shape_files", "host/training.py: shape_files"),
    "espnet2.train.trainer:TrainerOptions": (
        "output_dir resume best_model_criterion keep_nbest_models nbest_averaging_interval accum_grad "
        "grad_clip grad_clip_type grad_noise ngpu use_amp train_dtype", "tasks/trainer.py",
    ),
    "espnet2.train.distributed_utils:DistributedOption": (
        "distributed dist_rank dist_world_size ngpu", "tasks/trainer.py"
    ),
}  # fmt: skip
# Modules that recipes run with `python -m`, and options that kd.sh and we give.
COMMANDS = {
    "espnet2.bin.asr_train": (
        "--collect_stats --config --output_dir --train_shape_file --init_param", "kd.sh"
    ),
    "espnet2.bin.asr_transducer_train": ("--collect_stats --config --output_dir --train_shape_file", "kd.sh"),
    "espnet2.bin.asr_inference": (
        "--asr_train_config --asr_model_file --output_dir --key_file --batch_size --nbest --ngpu", "kd.sh"
    ),
    "espnet2.bin.asr_transducer_inference": (
        "--asr_train_config --asr_model_file --output_dir --key_file --streaming --decoding_window "
        "--left_context", "kd.sh",
    ),
    "espnet2.bin.asr_inference_streaming": ("--asr_train_config", "__main__.py: BUILDERS"),
    "espnet2.bin.asr_align": ("--asr_train_config", "__main__.py: BUILDERS"),
    "espnet2.bin.aggregate_stats_dirs": ("--input_dir --output_dir", "kd.sh"),
    "espnet2.bin.launch": (
        "--cmd --log --ngpu --num_nodes --init_file_prefix --multiprocessing_distributed", "kd.sh"
    ),
    "espnet2.bin.pack": ("asr", "kd.sh"),
}  # fmt: skip


def found(name: str) -> Any:
    """The object of a name such as ``module:Class.method``; None where it, or a module above it, is gone."""
    module, _, path = name.partition(":")
    try:
        thing = importlib.import_module(module)
    except ModuleNotFoundError:
        return None
    for part in path.split("."):
        thing = getattr(thing, part, None)
    return thing


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_what_it_took(name: str) -> None:
    expected, used_by = FUNCTIONS[name]
    function = found(name)
    assert function is not None, f"ESPnet has no {name} any more: used by {used_by}"
    names = list(inspect.signature(function).parameters)
    ours = [argument for argument in expected.split() if argument != "..."]
    if "..." in expected.split():
        names = [argument for argument in names if argument in ours]
    assert names == ours, f"ESPnet's {name} takes {names}, not {ours}: used by {used_by}"


@pytest.mark.parametrize("name", FIELDS)
def test_options_have_the_fields_that_they_had(name: str) -> None:
    expected, used_by = FIELDS[name]
    fields = getattr(found(name), "__dataclass_fields__", {})
    lost = [field for field in expected.split() if field not in fields]
    assert not lost, f"ESPnet's {name} has no {', '.join(lost)} any more: used by {used_by}"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_the_options_that_it_had(name: str) -> None:
    expected, used_by = COMMANDS[name]
    get_parser = found(f"{name}:get_parser")
    assert get_parser is not None, f"ESPnet has no {name} with get_parser() any more: used by {used_by}"
    options = re.findall(r"[\w-]+", get_parser().format_usage())
    lost = [option for option in expected.split() if option not in options]
    assert not lost, f"ESPnet's {name} has no {', '.join(lost)} any more: used by {used_by}"


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("espnet2.tasks.asr:ASRTask", OPTIONS + OF_ASR),
        ("espnet2.tasks.asr_transducer:ASRTransducerTask", OPTIONS + OF_TRANSDUCER),
    ],
)
def test_a_training_has_the_options_that_it_had(task: str, expected: list[str]) -> None:
    defaults = found(task).get_default_config()
    lost = [option for option in expected if option not in defaults]
    assert not lost, f"the training command of ESPnet's {task} has no {', '.join(lost)} any more"


def test_only_a_transducer_has_its_section() -> None:
    defaults = found("espnet2.tasks.asr:ASRTask").get_default_config()
    assert TRANSDUCER_KEY not in defaults, (
        f"ESPnet's task asr has {TRANSDUCER_KEY}, too: host/outputs.py: task_of tells the tasks by it"
    )


def test_the_default_front_end_has_the_frames_that_we_assume() -> None:
    from espnet_kd.data.audio import DEFAULT_RATE
    from espnet_kd.methods.delay import DEFAULT_HOP

    front_end = inspect.signature(found("espnet2.asr.frontend.default:DefaultFrontend")).parameters
    assert front_end["hop_length"].default == DEFAULT_HOP, "methods/delay.py assumes another hop length"
    assert int(front_end["fs"].default) == DEFAULT_RATE, "data/audio.py assumes another sampling rate"


def test_encoders_are_chosen_from_a_dict() -> None:
    for name in ("encoder_choices", "frontend_choices"):
        classes = getattr(found(f"espnet2.tasks.asr:{name}"), "classes", None)
        assert isinstance(classes, dict), (
            f"ESPnet's tasks.asr.{name} has no dict `classes` any more: used by host/training.py: add_choices"
        )


def test_a_name_that_is_gone_is_reported() -> None:
    assert found("espnet2.nowhere:thing") is None
    assert found(f"{ASR}._calc_nothing") is None
