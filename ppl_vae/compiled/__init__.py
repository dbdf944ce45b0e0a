"""A program's densities and losses, captured once as tensor graphs, which run without Pyro and can be compiled.

There are three levels. Draws are the same, and numbers are the same to round-off (of float32, with inductor):

* "plain": the program itself, under Pyro's handlers;
* "captured": the tensor graph of one run, operation by operation;
* "compiled": this graph, compiled by inductor. Compiling takes seconds once for each shape (less in a later process,
  since inductor has a cache on disk); the compiled graph then needs a fraction of the time.

A captured graph is compared with the program, on other values than those of the capture, before its first use, and
again at its first use in each run. A program that cannot be captured (usually because control flow depends on data)
runs as "plain", with one `CompileWarning` that names the cause.
"""

from ppl_vae.compiled.cache import clear
from ppl_vae.compiled.densities import LogJoint, LogWeights, PartialLogWeights, program_function
from ppl_vae.compiled.elbo import CompiledELBO
from ppl_vae.compiled.function import Function, PartialFunction
from ppl_vae.compiled.graph.backend import LEVELS, CompileWarning
from ppl_vae.compiled.graph.capture import CaptureError, Graph, capture
from ppl_vae.compiled.losses import PartialLoss, TrainingLoss
from ppl_vae.objectives.surrogates import losses_of
from ppl_vae.program.agreement import disagreement

__all__ = [
    "LEVELS",
    "CaptureError",
    "CompileWarning",
    "CompiledELBO",
    "Function",
    "Graph",
    "LogJoint",
    "LogWeights",
    "PartialFunction",
    "PartialLogWeights",
    "PartialLoss",
    "TrainingLoss",
    "capture",
    "clear",
    "disagreement",
    "losses_of",
    "program_function",
]
