"""Recorded graphs: what is read where it is, what is copied, and when a recording is made anew."""

from __future__ import annotations

import pytest
import torch
from compiled_programs import Net

from ppl_vae.compiled import LogWeights
from ppl_vae.compiled.graph.cuda_graphs import Replayed
from ppl_vae.program import Program


class Recorder:
    """As a CUDA graph does it: a replay works on the tensors of the recording, and on no others."""

    def __init__(self):
        self.recordings = 0

    def __call__(self, call):
        self.recordings += 1
        outputs = [value.clone() for value in call()]

        def replay():
            for output, value in zip(outputs, call(), strict=True):
                output.copy_(value)

        return outputs, replay


def run(inputs):
    scale, count, x = inputs
    count += 1
    return [scale * x, torch.randn(3)]


def test_a_replay_is_the_run_itself():
    record = Recorder()
    replayed = Replayed(run, 2, record)
    scale, count = torch.tensor(2.0), torch.zeros(())
    torch.manual_seed(0)
    expected = torch.randn(3), torch.randn(3)
    torch.manual_seed(0)
    first, noise = replayed([scale, count, torch.arange(4.0)])
    again, other = replayed([scale, count, torch.ones(4)])
    assert record.recordings == 1
    assert first.tolist() == [0, 2, 4, 6]  # and not what the second call made of it
    assert again.tolist() == [2, 2, 2, 2]
    assert count == 2  # recording is not running
    assert torch.equal(noise, expected[0])
    assert torch.equal(other, expected[1])


def test_tensors_of_the_programs_own_are_read_where_they_are():
    record = Recorder()
    replayed = Replayed(run, 2, record)
    scale, count, x = torch.tensor(2.0), torch.zeros(()), torch.ones(4)
    replayed([scale, count, x])
    scale.fill_(3.0)
    assert replayed([scale, count, x])[0].tolist() == [3, 3, 3, 3]
    assert record.recordings == 1
    assert replayed([torch.tensor(5.0), count, x])[0].tolist() == [5, 5, 5, 5]
    assert record.recordings == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_cuda_graph_agrees_and_draws_anew(monkeypatch):
    monkeypatch.setenv("PPL_VAE_CUDA_GRAPHS", "1")
    own = Net().cuda()
    program, x = Program(own.model, own.guide), own.x.cuda()
    weights = LogWeights(program, 4, level="compiled")
    plain = LogWeights(program, 4, level="plain")
    weights(x)
    for seed in (0, 1):
        torch.manual_seed(seed)
        drawn = weights(x), weights(x)
        assert not torch.equal(*drawn)
        torch.manual_seed(seed)
        for value in drawn:
            torch.testing.assert_close(value, plain(x), rtol=1e-4, atol=1e-4)
