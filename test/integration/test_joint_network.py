"""The pieces taken from ESPnet's joint network give ESPnet's logits and gradients."""

import pytest
import rnnt_reference as reference
import torch
from espnet2.asr_transducer.joint_network import JointNetwork

from espnet_kd.rnnt import joint_of, rnnt_loss


@pytest.mark.parametrize(
    "options",
    [{}, {"joint_activation_type": "relu"}, {"joint_activation_type": "swish", "lin_dec_bias": False}],
    ids=["tanh", "relu", "swish"],
)
def test_equals_the_stock_joint_network(options: dict) -> None:
    torch.manual_seed(0)
    network = JointNetwork(6, 4, 3, joint_space_size=5, **options).double()
    encoder_out = torch.randn(2, 4, 4).double().requires_grad_()
    decoder_out = torch.randn(2, 3, 3).double().requires_grad_()
    labels, enc_lens, label_lens = torch.tensor([[1, 2], [5, 4]]), torch.tensor([4, 4]), torch.tensor([2, 2])
    inputs = [encoder_out, decoder_out, *network.parameters()]

    joint = joint_of(network, encoder_out, decoder_out)
    stock = network(encoder_out[:, :, None], decoder_out[:, None])
    for b in range(2):
        torch.testing.assert_close(reference.logits_of(joint, b, 4, [0, 0]), stock[b])

    found = rnnt_loss(joint, labels, enc_lens, label_lens, reduction="none")
    log_probs = stock.log_softmax(-1)
    expected = torch.stack(
        [
            -reference.log_likelihood(log_probs[b, :, :, 0], log_probs[b, :, range(2), labels[b].tolist()])
            for b in range(2)
        ]
    )
    torch.testing.assert_close(found, expected)
    both = (torch.autograd.grad(loss.sum(), inputs, retain_graph=True) for loss in (found, expected))
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other)
