"""Searches, against sums over all alignments and over all texts."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from espnet_kd.export.search import CtcGreedy, CtcPrefix, Settings, TransducerBeam, attention_beam, transcribe

BLANK, A, B, END = 0, 1, 2, 3


def logs(rows: list[list[float]]) -> np.ndarray:
    return np.log(np.array(rows))


def test_ctc_greedy_leaves_out_blanks_and_repetitions() -> None:
    frames = [A, A, BLANK, A, B, B, BLANK]
    for cut in range(len(frames) + 1):  # in two chunks
        search = CtcGreedy(BLANK)
        for chunk in (frames[:cut], frames[cut:]):
            search.accept([np.zeros((1, len(chunk), 2)), np.eye(4)[chunk][None]])
        assert search.tokens == [A, A, B]


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(k for k, _ in itertools.groupby(path) if k != BLANK)


def test_a_ctc_prefix_has_the_probability_of_all_alignments() -> None:
    scores = np.random.default_rng(0).dirichlet(np.ones(3), 4)  # blank, A, B in four frames
    paths = {
        path: math.prod(scores[t, k] for t, k in enumerate(path))
        for path in itertools.product(range(3), repeat=4)
    }
    prefix = CtcPrefix(np.log(np.pad(scores, ((0, 0), (0, 1)), constant_values=1e-30)), BLANK, END)
    texts: dict[tuple[int, ...], np.ndarray] = {(): prefix.start()[1]}
    for text in ((A,), (B,), (A, A), (A, B), (A, A, B), (B, A)):
        probabilities, states = prefix.extend([END, *text[:-1]], texts[text[:-1]], np.array([text[-1], END]))
        texts[text] = states[0]
        begins = sum(p for path, p in paths.items() if collapse(path)[: len(text)] == text)
        ends = sum(p for path, p in paths.items() if collapse(path) == text[:-1])
        assert np.exp(probabilities) == pytest.approx([begins, ends], rel=1e-6)


def test_the_attention_beam_finds_the_best_text() -> None:
    # After A comes B, after B the end; the first token alone would rather be B.
    step = {END: [0.01, 0.45, 0.5, 0.04], A: [0.01, 0.01, 0.97, 0.01], B: [0.3, 0.2, 0.1, 0.4]}

    def decoder(tokens: np.ndarray, encoded: np.ndarray, cache: np.ndarray) -> list[np.ndarray]:
        longer = np.concatenate([cache, np.zeros((1, len(tokens), 1, 2), np.float32)], 2)
        return [logs([step.get(int(row[-1]), [0.25] * 4) for row in tokens]), longer]

    # A B: 0.45 * 0.97 * 0.4 = 0.175; B: 0.5 * 0.4 = 0.2; with CTC for A B the first is better
    plain = Settings("attention", end=END, states=[[1, 2]], beam_size=3)
    assert attention_beam(decoder, plain, np.zeros((1, 5, 2)), None) == [B]
    # With 0.5 for each token, the end among them: ln 0.175 + 1.5 is more than ln 0.2 + 1
    assert attention_beam(decoder, replace(plain, penalty=0.5), np.zeros((1, 5, 2)), None) == [A, B]
    ctc = logs([[0.1, 0.8, 0.09, 0.01], [0.8, 0.1, 0.09, 0.01], [0.1, 0.1, 0.79, 0.01]])
    both = Settings("attention", end=END, states=[[1, 2]], beam_size=3, ctc_weight=0.5)
    assert attention_beam(decoder, both, np.zeros((1, 3, 2)), ctc) == [A, B]
    # A beam of 1 asks CTC of the decoder's best token alone, and of the end: as in ESPnet B, not A
    assert attention_beam(decoder, replace(both, beam_size=1), np.zeros((1, 3, 2)), ctc) == [B]


def test_a_beam_over_all_tokens_finds_the_best_of_all_texts() -> None:
    """Also where the beam has room for the blank, of which CTC's logarithm is the largest negative number."""
    generator = np.random.default_rng(3)
    table = np.log(generator.dirichlet(np.full(4, 0.7), (4, 4)))  # last token, tokens so far -> next token
    ctc = np.log(generator.dirichlet([1.0, 1.0, 1.0, 0.1], 3))
    settings = Settings("attention", end=END, states=[[1, 2]], beam_size=20, ctc_weight=0.5)

    def decoder(tokens: np.ndarray, encoded: np.ndarray, cache: np.ndarray) -> list[np.ndarray]:
        longer = np.concatenate([cache, np.zeros((1, len(tokens), 1, 2), np.float32)], 2)
        return [table[tokens[:, -1], len(tokens[0]) - 1], longer]

    def score(text: tuple[int, ...]) -> float:
        prefix = CtcPrefix(ctc, BLANK, END)
        state, total, known = prefix.start()[1], 0.0, [END]
        for token in text:
            total += 0.5 * table[known[-1], len(known) - 1, token]
            probabilities, states = prefix.extend(known, state, np.array([token]))
            state, known = states[0], [*known, token]
        return total + 0.5 * float(probabilities[0])  # of the whole text, or of its begin where it is cut

    texts = [(*text, END) for n in range(3) for text in itertools.product((A, B), repeat=n)]
    texts += [*itertools.product((A, B), repeat=3)]
    found = attention_beam(decoder, settings, np.zeros((1, 3, 2)), ctc)
    assert found == [token for token in max(texts, key=score) if token != END]


def test_a_transcript_begins_with_its_own_symbol_and_has_no_blanks() -> None:
    """A decoder that reads B first, as with ESPnet's ``sym_sos``, and gives a blank in between."""
    step = {B: [0.01, 0.97, 0.01, 0.01], A: [0.97, 0.01, 0.01, 0.01], BLANK: [0.01, 0.01, 0.01, 0.97]}

    def decoder(tokens: np.ndarray, encoded: np.ndarray, cache: np.ndarray) -> list[np.ndarray]:
        longer = np.concatenate([cache, np.zeros((1, len(tokens), 1, 2), np.float32)], 2)
        return [logs([step.get(int(row[-1]), [0.25] * 4) for row in tokens]), longer]

    settings = Settings("attention", end=END, states=[[1, 2]], beam_size=1, start=B)
    assert attention_beam(decoder, settings, np.zeros((1, 5, 2)), None) == [A]


def test_a_search_is_named_in_words() -> None:
    found = {
        "greedy search of the CTC layer": Settings("ctc", beam_size=1),
        "greedy search of the transducer": Settings("transducer", beam_size=1),
        "beam search of 4": Settings("transducer", beam_size=4),
        "beam search of 1, CTC weight 0.6": Settings("attention", beam_size=1, ctc_weight=0.6),
        "beam search of 5, CTC weight 0, penalty 0.5": Settings("attention", beam_size=5, penalty=0.5),
    }
    assert list(found) == [settings.text for settings in found.values()]
    assert [settings.greedy for settings in found.values()] == [True, True, False, False, False]


def test_a_transducer_emits_several_tokens_in_a_frame_and_follows_its_states() -> None:
    fed: list[tuple[int, float]] = []

    def predictor(token: np.ndarray, state: np.ndarray) -> list[np.ndarray]:
        fed.append((int(token[0, 0]), float(state[0, 0, 0])))
        return [np.array([[len(fed) - 1.0]]), state + 1]

    wanted = {(0, 0): A, (0, 1): B, (0, 2): BLANK, (1, 2): B, (1, 3): BLANK}

    def joiner(frame: np.ndarray, predicted: np.ndarray) -> list[np.ndarray]:
        return [np.eye(4)[[wanted[int(frame[0, 0]), int(predicted[0, 0])]]]]

    def encoder(speech: np.ndarray) -> list[np.ndarray]:
        return [np.array([[[0.0], [1.0]]])]

    parts = {"encoder": encoder, "predictor": predictor, "joiner": joiner}
    settings = Settings("transducer", states=[[1, 1, 1]], beam_size=1)
    assert transcribe(parts, settings, np.zeros(10)) == [A, B, B]
    assert fed == [(BLANK, 0.0), (A, 1.0), (B, 2.0), (B, 3.0)]


def test_a_transducers_beam_finds_what_is_better_later() -> None:
    # In the frame a token is A or B, then the blank follows A with 0.2 and B with 0.9.
    table = {(): [0.1, 0.5, 0.4, 1e-9], (A,): [0.2, 0.5, 0.3, 1e-9], (B,): [0.9, 0.05, 0.05, 1e-9]}
    known = {number: table[text] for number, text in enumerate(table)}

    def predictor(token: np.ndarray, state: np.ndarray) -> list[np.ndarray]:
        return [np.array([[{BLANK: 0, A: 1, B: 2}[int(token[0, 0])]]]), state]

    def joiner(frame: np.ndarray, predicted: np.ndarray) -> list[np.ndarray]:
        return [logs([known[int(predicted[0, 0])]])]

    # B and the blank: 0.4 * 0.9 = 0.36; the blank alone: 0.1, A and the blank: 0.5 * 0.2 = 0.1,
    # A, B and the blank: 0.5 * 0.3 * 0.9 = 0.135
    search = TransducerBeam(predictor, joiner, Settings("transducer", states=[[1]], beam_size=2))
    search.accept([np.zeros((1, 1, 1))])
    assert search.tokens == [B]


def test_a_transducer_without_blanks_ends() -> None:
    joiner = lambda *_: [logs([[1e-9, 0.4, 0.6]])]  # noqa: E731
    search = TransducerBeam(lambda *_: [np.zeros((1, 1))], joiner, Settings("transducer", beam_size=2))
    search.accept([np.zeros((1, 2, 1))])
    assert isinstance(search.tokens, list)


def test_speech_that_is_too_short_has_no_text() -> None:
    assert transcribe({}, Settings("ctc", least=400), np.zeros(399)) == []
