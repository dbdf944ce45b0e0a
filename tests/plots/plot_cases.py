"""Results to draw, and what can be said of any figure."""

import math
from weakref import WeakSet

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ppl_vae.evidence.results.evidence import Evidence
from ppl_vae.evidence.results.pareto import khat, tail_size
from ppl_vae.history import Epoch, History

DRAWN = WeakSet()


def evidence_of(N=40, S=256, seed=0, spread=1.0, shift=-20.0):
    """An Evidence of log-normal weights, by the textbook formulas."""
    generator = torch.Generator().manual_seed(seed)
    scale = spread * (0.5 + torch.rand(N, generator=generator, dtype=torch.float64))
    log_w = shift + scale[:, None] * torch.randn(N, S, generator=generator, dtype=torch.float64)
    k = [2**i for i in range(S.bit_length())]
    k += [S] * (k[-1] != S)
    bounds = []
    for number in k:
        blocks = log_w[:, : S // number * number].reshape(N, -1, number)
        bounds.append((blocks.logsumexp(dim=2) - math.log(number)).mean(dim=1))
    w = (log_w - log_w.max(dim=1, keepdim=True).values).exp()
    nan = torch.full((N,), math.nan, dtype=torch.float64)
    stderr = w.std(dim=1) / w.mean(dim=1) / math.sqrt(S) if S > 1 else nan
    width = min(tail_size(S) + 1, S)
    return Evidence.of(
        log_evidence=bounds[-1],
        stderr=stderr,
        elbo=bounds[0],
        elbo_stderr=log_w.std(dim=1) / math.sqrt(S) if S > 1 else nan,
        ess=w.sum(dim=1) ** 2 / (w**2).sum(dim=1),
        khat=khat(log_w.topk(width, dim=1).values, S),
        num_samples=S,
        method="importance",
        bound="lower",
        seed=seed,
        curve_k=torch.tensor(k),
        curve_bound=torch.stack(bounds, dim=1),
        curve_stderr=stderr[:, None].expand(N, len(k)) / 2,
    )


def remade(evidence, **changes):
    """The same with other values, and another basis if it is among them."""
    tensors, settings = evidence.pack()
    return Evidence.of(**(tensors | settings | changes))


def history_of(epochs=30, valid=True, warmup=0, best=None):
    def epoch(n):
        value = -20 - 400 * math.exp(-n)
        return Epoch(n, 10 * n, value, value - 1 if valid else None, 1e-3, min(1.0, n / (warmup + 1)))

    return History(tuple(epoch(n) for n in range(1, epochs + 1)), best)


def draw(figure):
    """Draw a figure as a file of it would be."""
    if figure not in DRAWN:
        FigureCanvasAgg(figure).draw()
        DRAWN.add(figure)


def texts(figure):
    """All words of a figure, once it has been drawn without a warning."""
    draw(figure)
    return "\n".join(t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")))


def inside(figure):
    """Whether all that is drawn lies within the figure."""
    draw(figure)
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert box.x0 >= -0.01, box
    assert box.y0 >= -0.01, box
    assert box.x1 <= width + 0.01, box
    assert box.y1 <= height + 0.01, box
    return True


def overlaps(figure):
    """The pairs of words of the axes, titles and legends that lie on one another."""
    draw(figure)
    shown = [t for axes in figure.axes for t in (*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label)]
    shown += [t for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for t in seen_ticks(axis)]
    shown += [t for legend in figure.legends for t in legend.get_texts()] + [figure._suptitle]
    boxes = [(t.get_text(), t.get_window_extent()) for t in shown if t is not None and t.get_text().strip()]
    return [
        (a, b)
        for n, (a, first) in enumerate(boxes)
        for b, second in boxes[n + 1 :]
        if min(first.x1, second.x1) - max(first.x0, second.x0) > 1
        and min(first.y1, second.y1) - max(first.y0, second.y0) > 1
    ]


def seen_ticks(axis):
    """The tick labels within the limits."""
    low, high = sorted(axis.get_view_interval())
    return [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
