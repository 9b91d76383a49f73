"""Check that an encoder's output and training do not depend on padding."""

import copy

import torch
from torch import Tensor, nn

LENGTHS = (23, 9, 14)
FEATURES = 12


def utterances(features: int = FEATURES) -> list[Tensor]:
    """Make random utterances (T, F), all different, with the lengths LENGTHS."""
    random = torch.Generator().manual_seed(0)
    return [torch.randn(length, features, generator=random) * 3 + 1 for length in LENGTHS]


def pad(batch: list[Tensor], more: int = 0, filling: float = 0.0) -> tuple[Tensor, Tensor]:
    """Pad utterances to (B, longest + more, F); return them with their (B,) lengths."""
    xs = torch.full((len(batch), max(map(len, batch)) + more, batch[0].shape[1]), filling)
    for row, utterance in zip(xs, batch, strict=True):
        row[: len(utterance)] = utterance
    return xs, torch.tensor([len(utterance) for utterance in batch])


def check_eval(encoder: nn.Module) -> None:
    """Assert that an utterance has the same output alone and in a batch, for any values in the padding."""
    encoder.eval()
    batch = utterances()
    together, lengths, states = encoder(*pad(batch, filling=float("nan")))
    assert states is None and together.shape == (3, int(lengths.max()), encoder.output_size())
    for utterance, row, length in zip(batch, together, lengths, strict=True):
        alone, [frames], _ = encoder(*pad([utterance]))
        assert frames == length == alone.shape[1]
        torch.testing.assert_close(alone[0], row[:length], atol=1e-5, rtol=1e-5)
        assert (row[length:] == 0).all()


def check_train(encoder: nn.Module) -> None:
    """Assert that in training outputs, gradients and running statistics do not depend on the padding.

    Another utterance would change the statistics, a copy of the same does not: so the batch is one utterance
    or two copies, and the tensor is longer than either.
    """
    encoder.train()
    utterance = utterances()[0]
    alone, expected = _train(copy.deepcopy(encoder), utterance, 1, 0)
    for copies, more in ((2, 0), (2, 9), (1, 40)):
        together, state = _train(copy.deepcopy(encoder), utterance, copies, more)
        for row in together:
            torch.testing.assert_close(row, alone[0], atol=1e-5, rtol=1e-5)
        for name, value in expected.items():
            torch.testing.assert_close(
                state[name], value, atol=2e-4, rtol=2e-4, msg=lambda m, n=name: f"{n}: {m}"
            )


def _train(encoder: nn.Module, utterance: Tensor, copies: int, more: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the output, and gradients and running means after a step."""
    xs, lengths = pad([utterance] * copies, more, filling=float("nan"))
    ys, _, _ = encoder(xs, lengths)
    (ys.square().sum() / copies).backward()
    state = {name: p.grad for name, p in encoder.named_parameters()}
    return ys.detach(), state | {name: b for name, b in encoder.named_buffers() if "running_mean" in name}
