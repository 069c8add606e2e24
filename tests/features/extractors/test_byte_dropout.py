import pytest
import torch
from sonokit.features.extractors.byte_dropout import ByteDropout


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.99])
def test_byte_dropout__drops_at_the_rate_and_keeps_the_expectation(rate):
    torch.manual_seed(0)
    out = ByteDropout(rate)(torch.ones(1001, 997))
    assert (out == 0).float().mean().item() == pytest.approx(rate, abs=0.004)
    assert out.mean().item() == pytest.approx(1, rel=0.02 if rate < 0.9 else 0.1)
    assert len(out.unique()) == 2


def test_byte_dropout__elements_fall_independently():
    torch.manual_seed(0)
    kept = (ByteDropout(0.5)(torch.ones(4000, 64)) > 0).float()
    correlation = torch.corrcoef(kept.T) - torch.eye(64)
    assert correlation.abs().max() < 0.08  # five standard errors
    along = torch.corrcoef(torch.stack([kept.flatten()[:-8], kept.flatten()[8:]]))[0, 1]  # from one 64-bit number to the next
    assert abs(along) < 0.01


def test_byte_dropout__evaluation_and_rate_0_leave_all_as_it_is_and_the_seed_decides():
    x = torch.randn(3, 5)
    assert ByteDropout(0.0)(x) is x
    assert ByteDropout(0.5).eval()(x) is x
    draws = []
    for _ in range(2):
        torch.manual_seed(4)
        draws.append(ByteDropout(0.5)(torch.ones(40, 40)))
    assert torch.equal(*draws)


def test_byte_dropout__gradient_passes_where_the_value_does():
    torch.manual_seed(0)
    x = torch.ones(100, requires_grad=True)
    out = ByteDropout(0.3)(x)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())
