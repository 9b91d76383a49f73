"""`espnet-kd export` on models of random weights: graphs equal torch, and what does not is refused."""

import json
import signal
import string
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from exports import HYBRID, RATE, TRANSDUCER, write_check_set, write_experiment

from espnet_kd.errors import UserError
from espnet_kd.export import check, command, directory, graphs, search, writing
from espnet_kd.export.graph_parts import Compared, OnnxPart, TorchPart
from espnet_kd.measure.recogniser import DecodingOptions, load_recogniser

pytestmark = pytest.mark.slow(seconds=15)

CTC = {"decoder": None, "decoder_conf": {}, "model_conf": {"ctc_weight": 1.0}}
JASPER = {
    "prologue": {"channels": 16, "kernel": 5, "stride": 4},
    "blocks": [{"channels": 16, "kernel": 5}],
    "epilogue": [{"channels": 16, "kernel": 1}],
}
BLOCKS = {
    "output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 1, "block_size": 8,
    "hop_size": 4, "look_ahead": 4,
}  # fmt: skip
CHUNKS = {"dynamic_chunk_training": True, "short_chunk_size": 4, "num_left_chunks": 2}
STREAMING = {**TRANSDUCER, "encoder_conf": {**TRANSDUCER["encoder_conf"], "main_conf": CHUNKS}}
SHERPA_FEATURES = {
    "frontend": "sherpa_fbank", "frontend_conf": {"fs": RATE, "n_mels": 40, "hop_length": 160, "win_sz": 480},
}  # fmt: skip
DEEPSPEECH2 = {
    "convolutions": [{"channels": 4, "kernel": [5, 11], "stride": [4, 2]}], "layers": 1, "hidden": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_check_set(tmp_path_factory.mktemp("speech"))


def export(exp: Path, dev: Path, *options: str) -> dict[str, Any]:
    """Export into the experiment, and return the description."""
    command.main([str(exp), "--out", str(exp / "out"), "--check", str(dev), *options])
    found: dict[str, Any] = json.loads((exp / "out/export.json").read_text())
    return found


def texts(exp: Path, dev: Path) -> list[str]:
    """What an exported model transcribes."""
    model = directory.load(exp / "out")
    return [model.transcribe(soundfile.read(dev / f"u{i}.wav", dtype="float32")[0]) for i in range(3)]


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experiment(tmp_path_factory.mktemp("hybrid"), **HYBRID)


@pytest.mark.long
def test_a_hybrid_equals_torch_and_espnets_search(hybrid: Path, dev: Path) -> None:
    from espnet_kd.host.search import Search

    found = export(hybrid, dev, "--beam_size", "3", "--ctc_weight", "0.4")
    assert found["largest_difference"].keys() == {"encoder", "decoder"}
    assert max(found["largest_difference"].values()) < 1e-4
    assert found["check"]["onnx"]["texts_differ"] == 0
    options = {"beam_size": 3, "ctc_weight": 0.4, "penalty": 0.0, "maxlenratio": 0.0, "minlenratio": 0.0}
    files = (str(hybrid / name) for name in ("config.yaml", "valid.acc.ave.pth"))
    search = Search("asr", *files, "cpu", options)
    speech = [soundfile.read(dev / f"u{i}.wav", dtype="float32")[0] for i in range(3)]
    espnet = [" ".join(str(search(f"u{i}", wave, 0)[0][0]).split()) for i, wave in enumerate(speech)]
    assert texts(hybrid, dev) == espnet and len(set(espnet)) > 1
    searched = found["check"]["espnet_search"]
    assert (searched["utterances"], searched["texts_differ"]) == (2, 0)
    assert not list(hybrid.glob(".out*"))


@pytest.mark.parametrize("kind", ["hybrid", "transducer", pytest.param("chunks", marks=pytest.mark.long)])
def test_a_fault_of_our_search_is_seen_by_espnets(
    kind: str, hybrid: Path, dev: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No graph is needed: torch and graphs share the search."""
    from espnet_kd.export.experiment import SearchOptions, open_source
    from espnet_kd.export.graph_parts import torch_parts

    config = {"transducer": TRANSDUCER, "chunks": STREAMING}.get(kind)
    exp = hybrid if config is None else less_certain(write_experiment(tmp_path, **config))
    options = SearchOptions(beam_size=3, penalty=0.5, stream=(320, 16) if kind == "chunks" else None)
    source = open_source(exp, None, options)
    model, settings = source.experiment.model, source.settings
    parts = torch_parts(graphs.plan_parts(model, settings.search, RATE, settings.chunks), model)
    data = check.read_check_set(dev, RATE)

    def differ() -> int:
        found = writing.compare_searches(source, settings, parts, data, 1000.0)
        return int(found["espnet_search"]["texts_differ"])

    assert differ() == 0
    faulty, name = (search.CtcPrefix, "extend") if kind == "hybrid" else (search.TransducerBeam, "_scores")
    right = getattr(faulty, name)
    order = slice(None, None, -1) if kind == "hybrid" else [0, 1, 2, 4, 3, 5, 6]  # of candidates, of tokens

    def wrong(*arguments: Any) -> Any:
        scores, states = right(*arguments)
        return scores[order].copy(), states

    monkeypatch.setattr(faulty, name, wrong)
    assert differ() > 0


def less_certain(exp: Path) -> Path:
    """Let a random transducer give blanks: without them ESPnet's beam search does not end."""
    import torch

    state = torch.load(exp / "valid.acc.ave.pth", weights_only=True)
    state["joint_network.lin_out.weight"] /= 10
    state["joint_network.lin_out.bias"] *= 0
    torch.save(state, exp / "valid.acc.ave.pth")
    return exp


@pytest.mark.long
def test_a_broken_weight_is_refused(hybrid: Path, dev: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx

    write = writing.write_graph

    def broken(name: str, plan: Any, path: Path, opset: int) -> int | None:
        least = write(name, plan, path, opset)
        graph = onnx.load(path)
        weight = max(graph.graph.initializer, key=lambda i: len(i.raw_data))
        values = onnx.numpy_helper.to_array(weight).copy()
        values.flat[7] += 1.0
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        onnx.save(graph, path)
        return least

    monkeypatch.setattr(writing, "write_graph", broken)
    with pytest.raises(UserError, match=r"part encoder: its graph differs from torch by .*nothing is"):
        command.main([str(hybrid), "--out", str(hybrid / "broken"), "--check", str(dev), "--search", "ctc"])
    assert not list(hybrid.glob("*broken*"))


def test_what_cannot_be_exported_is_named(hybrid: Path, dev: Path, tmp_path: Path) -> None:
    def refused(config: dict[str, Any], *options: str) -> str:
        exp = write_experiment(tmp_path / str(len(list(tmp_path.iterdir()))), **config)
        with pytest.raises(UserError) as error:
            command.main([str(exp), "--check", str(dev), *options])
        return str(error.value)

    rnn = {**HYBRID, "decoder": "rnn", "decoder_conf": {}}
    assert "attention decoder is a RNNDecoder, not a transformer: export its CTC layer with" in refused(rnn)
    to_sherpa = ("--format", "sherpa")
    blocks = {**CTC, "encoder": "contextual_block_transformer", "encoder_conf": BLOCKS}
    assert "Python loop over as many blocks as the speech has" in refused(blocks)
    assert "--stream: its encoder needs the whole utterance" in refused(TRANSDUCER, "--stream")
    by_words = ("--inference_args", "--streaming true --beam_size 1")
    for option in (("--stream",), by_words):
        assert "train a student with `frontend: sherpa_fbank`" in refused(STREAMING, *option, *to_sherpa)
    on_sherpas = {**STREAMING, **SHERPA_FEATURES}
    assert "streaming CTC models have other" in refused(on_sherpas, "--stream", *to_sherpa, "--search", "ctc")
    odd = ("--stream", *to_sherpa, "--decoding_window", "325")
    assert "--decoding_window: give a multiple of 10 milliseconds" in refused(on_sherpas, *odd)
    assert "--decoding_window 10: the encoder makes no frame of so little" in refused(
        STREAMING, "--stream", "--decoding_window", "10"
    )
    recurrent = {**CTC, "encoder": "deepspeech2", "encoder_conf": DEEPSPEECH2}
    assert "cannot run the graph of its recurrent encoder" in refused(recurrent)
    assert "with --search transducer: it has attention, ctc" in refused(HYBRID, "--search", "transducer")
    assert "--search ctc is greedy" in refused(HYBRID, "--search", "ctc", "--beam_size", "2")
    of_no_decoder = "--ctc_weight is of attention decoders, not of --search"
    assert f"{of_no_decoder} ctc: leave it out" in refused(HYBRID, "--search", "ctc", "--ctc_weight", "0.3")
    assert f"{of_no_decoder} transducer: leave it out" in refused(TRANSDUCER, "--ctc_weight", "0.3")
    assert "attention is not written for" in refused(HYBRID, *to_sherpa, "--search", "attention")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/file").touch()
    with pytest.raises(UserError, match="own is not an exported model and is not overwritten"):
        command.main([str(hybrid), "--check", str(dev), "--out", str(tmp_path / "own")])


def test_tokens_that_only_espnets_tokenizers_join_are_refused() -> None:
    """The check could not tell: torch and graphs have the same tokens, and would have the same wrong text."""
    from espnet_kd.export.experiment import refuse_tokens

    for kind in ("phn", "whisper_multilingual", "hugging_face", None):
        with pytest.raises(UserError, match=rf"cannot be exported: `token_type: {kind}`: .* bpe, char, word"):
            refuse_tokens(Path("exp"), {"token_type": kind}, ["A"])
    with pytest.raises(UserError, match=r"its subwords have bytes, such as <0x0A>: train"):
        refuse_tokens(Path("exp"), {"token_type": "bpe"}, ["<blank>", "<unk>", "<0x0A>", "A"])
    refuse_tokens(Path("exp"), {"token_type": "char"}, ["<blank>", "<unk>", "<0x0A>", "A"])


def test_without_ctc_the_penalty_is_weighted_as_by_espnet(tmp_path: Path) -> None:
    """Scores are 0.6 of the decoder and 0.3 a token, in other units 1 and 0.5."""
    from espnet_kd.export.experiment import SearchOptions, open_source

    exp = write_experiment(tmp_path, **{**HYBRID, "model_conf": {"ctc_weight": 0.0}})
    found = open_source(exp, None, SearchOptions("attention", ctc_weight=0.4, penalty=0.3)).settings
    assert (found.ctc_weight, found.penalty) == (0.0, pytest.approx(0.5))


def test_options_that_graphs_do_not_search_by_are_named(
    hybrid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from espnet_kd.export.experiment import search_of_decoding

    def printed(exp: Path, config: str) -> str:
        (tmp_path / "decode.yaml").write_text(config)
        search_of_decoding(exp, None, tmp_path / "decode.yaml", "")
        return capsys.readouterr().out

    assert printed(hybrid, "{beam_size: 7, ctc_weight: 0.6, penalty: 0.5, maxlenratio: 0.0}") == ""
    assert printed(hybrid, "{minlenratio: 0.2, normalize_length: true}") == (
        "the search of graphs leaves out minlenratio 0.2, normalize_length True\n"
    )
    exp = write_experiment(tmp_path, **TRANSDUCER)
    assert printed(exp, "beam_search_config: {search_type: default}") == ""
    assert "leaves out beam_search_config {'score_norm': True}" in printed(
        exp, "beam_search_config: {score_norm: true}"
    )


def test_graphs_search_as_a_decoding_configuration_says(hybrid: Path, tmp_path: Path) -> None:
    from espnet_kd.export.experiment import search_of_decoding

    def found(exp: Path, config: str, words: str = "") -> Any:
        (tmp_path / "decode.yaml").write_text(config)
        return search_of_decoding(exp, None, tmp_path / "decode.yaml", words)

    beam = found(hybrid, "{beam_size: 7, ctc_weight: 0.6, penalty: 0.5}", "--beam_size 3")
    assert (beam.search, beam.beam_size, beam.ctc_weight, beam.penalty) == ("attention", 3, 0.6, 0.5)
    assert found(hybrid, "{beam_size: 7, ctc_weight: 1.0}").search == "ctc"
    (tmp_path / "t").mkdir()
    exp = write_experiment(tmp_path / "t", **TRANSDUCER)
    beam = found(exp, "{beam_size: 4, beam_search_config: {search_type: default}}")
    assert (beam.search, beam.beam_size, beam.stream) == ("transducer", 4, None)
    assert found(exp, "{streaming: true, decoding_window: 320, left_context: 16}").stream == (320, 16)
    args = command.parser().parse_args([str(exp), "--check", "dev", "--inference_args", "--beam_size 4"])
    args.beam_size = 2
    assert command.search_options(args).beam_size == 2
    args.search, args.beam_size = "ctc", None
    assert command.search_options(args).beam_size is None
    chunks = "--streaming true --decoding_window 320 --left_context 16"
    args = command.parser().parse_args([str(exp), "--check", "dev", "--stream", "--inference_args", chunks])
    assert command.search_options(args).stream == (320, 16)
    args.left_context = 8
    assert command.search_options(args).stream == (320, 8)


@pytest.mark.long
def test_a_transducer_equals_torch(dev: Path, tmp_path: Path) -> None:
    exp = write_experiment(tmp_path, **TRANSDUCER)
    found = export(exp, dev)
    assert found["largest_difference"].keys() == {"encoder", "predictor", "joiner"}
    assert max(found["largest_difference"].values()) < 1e-4
    assert found["check"]["onnx"]["texts_differ"] == 0
    assert "espnet_search" not in found["check"], "ESPnet has no greedy search"
    assert len(set(texts(exp, dev))) > 1, "a model that writes something"


@pytest.mark.parametrize("rnn_type", ["gru", "stateless"])
def test_other_predictors_equal_torch(rnn_type: str, tmp_path: Path) -> None:
    """What they give for a token, and for the next with the states after it; the encoder is as above."""
    from espnet_kd.export.experiment import SearchOptions, open_source

    decoder = {"decoder": "stateless", "decoder_conf": {"embed_size": 16}} if rnn_type == "stateless" else {
        "decoder_conf": {**TRANSDUCER["decoder_conf"], "rnn_type": rnn_type}
    }  # fmt: skip
    exp = write_experiment(tmp_path, **{**TRANSDUCER, **decoder})
    source = open_source(exp, None, SearchOptions())
    plans = graphs.plan_parts(source.experiment.model, "transducer", RATE)
    parts = []
    for name in ("predictor", "joiner"):
        graphs.write_graph(name, plans[name], tmp_path / name, 18)
        parts.append(Compared(TorchPart(plans[name].module), OnnxPart(tmp_path / name)))
    states = [np.zeros(shape, np.float32) for shape in source.settings.states]
    for token in (0, 4, 3):
        predicted, *states = parts[0](np.array([[token]]), *states)
        parts[1](np.full((1, 16), 0.1 * token, np.float32), predicted)
    assert len(states) == (rnn_type == "gru") and max(part.difference for part in parts) < 1e-4


def test_the_front_end_of_sherpa_onnx_is_exported_too(tmp_path: Path) -> None:
    from espnet_kd.export.experiment import SearchOptions, open_source

    source = open_source(
        write_experiment(tmp_path, **{**STREAMING, **SHERPA_FEATURES}), None, SearchOptions(stream=(320, 16))
    )
    model, cut = source.experiment.model, source.settings.chunks
    front_end = graphs.plan_parts(model, "transducer", RATE, cut)["front_end"]
    graphs.write_graph("front_end", front_end, tmp_path / "front_end", 18)
    both = Compared(TorchPart(front_end.module), OnnxPart(tmp_path / "front_end"))
    for samples in (5120, 5440, 3001):
        both(np.random.default_rng(samples).normal(0, 0.1, (1, samples)).astype(np.float32))
    assert both.difference < 1e-3


@pytest.mark.long
@pytest.mark.parametrize(("encoder", "conf"), [("jasper", JASPER), ("e_branchformer", None)])
def test_other_encoders_equal_torch(encoder: str, conf: Any, dev: Path, tmp_path: Path) -> None:
    conf = conf or {"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 1,
                    "cgmlp_linear_units": 32, "cgmlp_conv_kernel": 7}  # fmt: skip
    exp = write_experiment(tmp_path, **CTC, encoder=encoder, encoder_conf=conf)
    found = export(exp, dev)
    assert found["largest_difference"]["encoder"] < 1e-4 and found["check"]["onnx"]["texts_differ"] == 0


@pytest.mark.long
def test_sherpa_onnx_transcribes_as_torch_does(hybrid: Path, dev: Path) -> None:
    found = export(hybrid, dev, "--format", "sherpa", "--tolerance", "10")
    assert found["largest_difference"]["encoder"] < 1e-2  # the level of the speech is restored
    assert found["check"]["sherpa"]["texts_differ"] <= 1
    assert texts(hybrid, dev)[0]


@pytest.mark.long
def test_a_streaming_transducer_equals_espnet_in_every_chunk(dev: Path, tmp_path: Path) -> None:
    exp = write_experiment(tmp_path, **STREAMING)
    found = export(exp, dev, "--stream", "--decoding_window", "320", "--left_context", "16")
    parts = {"front_end", "encoder", "predictor", "joiner"}
    assert found["largest_difference"].keys() == {*parts, "chunks"} and found["parts"].keys() == parts
    assert max(found["largest_difference"].values()) < 1e-4
    assert found["check"]["onnx"]["texts_differ"] == 0
    model = load_recogniser(exp / "out", DecodingOptions(stream=True))
    assert model.chunk == 5120 and model.whole == ""
    speech = soundfile.read(dev / "u2.wav", dtype="float32")[0]
    stream = model.stream()
    partial = [stream.accept(speech[:5120], False), stream.accept(speech[5120:6000], True)]
    assert partial[1].startswith(partial[0]) and len(partial[1]) > len(partial[0])
    assert model.decode(speech) == texts(exp, dev)[2] != partial[1] and model.decode(speech[:0]) == ""
    assert isinstance(model.decode(speech[:10]), str), "ESPnet pads it to a chunk"


@pytest.mark.long
@pytest.mark.parametrize(("decoder", "states"), [("lstm", 2), ("gru", 1), ("stateless", 0)])
def test_sherpa_onnx_streams_as_espnet_does(decoder: str, states: int, dev: Path, tmp_path: Path) -> None:
    config = {**STREAMING, **SHERPA_FEATURES}
    config["decoder_conf"] = {**TRANSDUCER["decoder_conf"], "rnn_type": decoder}
    if decoder == "stateless":
        config |= {"decoder": "stateless", "decoder_conf": {"embed_size": 16}}
    exp = write_experiment(tmp_path, **config)
    sizes = ("--decoding_window", "320", "--left_context", "16", *(["--int8"] if decoder == "gru" else []))
    found = export(exp, dev, "--format", "sherpa", "--stream", *sizes, "--tolerance", "1000")
    assert found["largest_difference"].keys() == {"predictor", "joiner", "chunks"}
    assert max(found["largest_difference"].values()) < 1e-4
    assert found["parts"].keys() == {"encoder", "decoder", "joiner"}
    assert len(found["settings"]["states"]) == states
    model = load_recogniser(exp / "out", DecodingOptions(stream=True))
    speech = soundfile.read(dev / "u2.wav", dtype="float32")[0]
    stream, places = model.stream(), range(0, len(speech), 4000)
    pieces = [stream.accept(speech[i : i + 4000], i + 4000 >= len(speech)) for i in places]
    assert pieces[-1] == model.decode(speech) and pieces[-1].startswith(pieces[-2])
    assert decoder != "lstm" or pieces[2], "a model that writes something, before the end"
    assert model.decode(speech[:0]) == "" and isinstance(model.decode(speech[:10]), str)
    if decoder != "gru":  # in float the text of ESPnet's encoder with the same silence at the end
        espnets = text_with_silence(exp, speech, found["settings"]["chunks"])
        # sherpa-onnx leaves out what begins a text and is no letter
        assert pieces[-1] == espnets.replace("<unk>", "").lstrip(string.punctuation)


def text_with_silence(exp: Path, speech: np.ndarray, chunks: dict[str, Any]) -> str:
    """The text by ESPnet's streaming encoder of speech and of the silence that sherpa-onnx has after it."""
    from espnet_kd.export.experiment import SearchOptions, open_source
    from espnet_kd.export.graph_parts import torch_parts
    from espnet_kd.export.search import Chunks, begin_search
    from espnet_kd.export.sherpa_stream import calls_for, silence_after
    from espnet_kd.host.streaming import StreamingEncoder

    source, cut = open_source(exp, None, SearchOptions(stream=(320, 16))), Chunks(**chunks)
    model, settings = source.experiment.model, source.settings
    encoder = StreamingEncoder(model, source.config, 320, 16)
    encoder.begin()
    search = begin_search(torch_parts(graphs.plan_parts(model, "transducer", RATE, cut), model), settings)
    whole = np.concatenate([speech, silence_after(len(speech), cut)])
    for call in range(calls_for(len(speech), cut)):
        search.accept(encoder.accept(whole[call * 5120 : (call + 1) * 5120], False))
    return directory.text_of(search.tokens, source.experiment.tokens, source.token_type)


@pytest.mark.long
@pytest.mark.parametrize("decoder", ["rnn", "stateless"])
def test_sherpa_onnx_runs_the_search_of_a_transducer(decoder: str, dev: Path, tmp_path: Path) -> None:
    conf = {"rnn": TRANSDUCER["decoder_conf"], "stateless": {"embed_size": 16}}[decoder]
    exp = write_experiment(tmp_path, **{**TRANSDUCER, "decoder": decoder, "decoder_conf": conf})
    found = export(exp, dev, "--format", "sherpa", *(["--int8"] if decoder == "rnn" else []))
    assert found["largest_difference"].keys() == {"encoder", "cached_decode"}
    assert max(found["largest_difference"].values()) < 1e-4
    assert found["check"]["sherpa"]["texts_differ"] == 0
    assert len(found["parts"]) == 4 and all(texts(exp, dev))


@pytest.mark.long
def test_int8_is_smaller_and_its_layers_are_reported(hybrid: Path, dev: Path) -> None:
    found = export(hybrid, dev, "--search", "ctc", "--int8", "--tolerance", "1000")
    assert found["parts"]["encoder"]["bytes"] < found["bytes_in_float"]
    assert found["int8_layers"] + len(found["float_layers"]) == len(found["effects"]) > 5
    assert {path.name for path in (hybrid / "out").iterdir()} == {"encoder.onnx", "export.json", "tokens.txt"}
    with pytest.raises(UserError, match=r"--keep_float encoder.embd: did you mean encoder.embed"):
        export(hybrid, dev, "--search", "ctc", "--int8", "--keep_float", "encoder.embd")


@pytest.mark.long
def test_a_killed_export_leaves_nothing_under_its_name(hybrid: Path, dev: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    words = [sys.executable, "-m", "espnet_kd", "export", hybrid, "--out", out, "--check", dev]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not list(tmp_path.glob(".killed.*/encoder.onnx")):
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()


def test_missing_packages_name_the_extra(hybrid: Path, dev: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"onnxscript is missing: pip install 'espnet_kd\[export\]'"):
        command.main([str(hybrid), "--check", str(dev)])
