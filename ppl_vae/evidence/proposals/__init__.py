"""Where importance samples come from: proposals for evaluation only, chosen without training anything again.

A proposal is a value, such as ``Defensive(alpha=0.1)``; an estimator binds it to data. One of your own is any object
with a ``bind`` that returns a `Bound`.
"""

from ppl_vae.evidence.proposals.base import Bound, Proposal, check_proposal
from ppl_vae.evidence.proposals.defensive import Defensive
from ppl_vae.evidence.proposals.guide import Guide
from ppl_vae.evidence.proposals.refitted import Refitted
from ppl_vae.evidence.proposals.student import StudentT
from ppl_vae.evidence.proposals.widened import Widened

__all__ = ["Bound", "Defensive", "Guide", "Proposal", "Refitted", "StudentT", "Widened", "check_proposal"]
