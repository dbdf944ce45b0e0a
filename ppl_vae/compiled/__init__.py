"""A program's densities and losses, captured once as tensor graphs: free of Pyro's cost a call, and fit to be compiled.

Three levels, the same numbers and the same draws at each (to round-off; with inductor, of float32 in the last digits):

* "plain": the program itself, under Pyro's handlers;
* "captured": the tensor graph of one run, operation by operation;
* "compiled": that graph, compiled by inductor: seconds once for each shape (less in a later process: it keeps what it
  made on disk), then a fraction of the time.

What is captured is checked: against the program, on other values than those of the capture, before it is first used,
and again on its first use in each run. What cannot be captured (control flow that depends on data, above all) runs as
"plain", with one `CompileWarning` that names the cause.
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
