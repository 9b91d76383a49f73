"""The search of a batch writes what a loop over the frames of one utterance writes."""

import torch
from torch import Tensor, nan, nn

from espnet_kd.rnnt.search import find_labels

CLASSES, SIZE = 6, 4


class Network(nn.Module):
    """A joint network over outputs of a recurrent prediction network of two layers, both random."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.lin_enc, self.lin_dec, self.lin_out = (nn.Linear(SIZE, n) for n in (SIZE, SIZE, CLASSES))
        self.embed, self.rnn = nn.Embedding(CLASSES, SIZE), nn.GRU(SIZE, SIZE, 2)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=1.5)
        self.double()

    def forward(self, enc: Tensor, dec: Tensor, no_projection: bool) -> Tensor:
        assert no_projection
        return self.lin_out(torch.tanh(enc + dec))

    def step(self, label: Tensor, states: tuple[Tensor, ...] | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        output, state = self.rnn(self.embed(label)[None], None if states is None else states[0])
        return output[0], (state,)

    def along(self, labels: list[int]) -> Tensor:
        """The output after some labels, without states."""
        return self.lin_dec(self.rnn(self.embed(torch.tensor(labels))[:, None])[0][-1])


def one_by_one(network: Network, encoded: Tensor, most: int) -> list[int]:
    """Labels of one utterance, (T, D)."""
    labels = [0]
    for frame in encoded:
        logits = network.lin_out(torch.tanh(network.lin_enc(frame) + network.along(labels)[0]))
        label = int(logits.argmax())
        if label != 0 and len(labels) <= most:
            labels.append(label)
    return labels[1:]


@torch.no_grad()
def test_a_batch_is_searched_as_its_utterances_are() -> None:
    network = Network()
    frames, most = torch.tensor([12, 9, 12, 3, 12, 1]), torch.tensor([20, 20, 2, 20, 0, 20])
    encoded = torch.randn(6, 12, SIZE).double()
    for i, n in enumerate(frames):
        encoded[i, n:] = nan  # padding, which nothing may read
    greedy = network, network.step, encoded, frames, most, lambda logits: logits.argmax(-1)
    labels, counts = find_labels(*greedy, 20)
    expected = [one_by_one(network, encoded[i, : frames[i]], int(most[i])) for i in range(6)]
    assert [row[row != -1].tolist() for row in labels] == expected
    assert counts.tolist() == [len(row) for row in expected] and labels.shape == (6, 20)
    assert len(expected[0]) > 3 and len(expected[0]) < 12, "labels and blanks"
    assert len({*expected[0]}) > 1 and counts[2] == 2, "several labels; a hypothesis of full length"


@torch.no_grad()
def test_every_label_is_chosen_by_the_function_given() -> None:
    network, chosen = Network(), iter([[3, 0], [0, 5], [4, 2], [1, 1]])
    given = torch.zeros(2, 4, SIZE).double(), torch.tensor([4, 3]), torch.tensor([2, 4])
    labels, counts = find_labels(network, network.step, *given, lambda logits: torch.tensor(next(chosen)), 4)
    # the first has two labels at most, the second three frames
    assert labels.tolist() == [[3, 4, -1, -1], [5, 2, -1, -1]] and counts.tolist() == [2, 2]
