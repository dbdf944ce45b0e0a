"""Proposals: the distributions of importance samples. They are used in evaluation only, and need no new training.

A proposal is a value, such as ``Defensive(alpha=0.1)``; an estimator binds it to data. Your own proposal is any object
with a method ``bind`` that returns a `ProposalOnData`.
"""

from ppl_vae.evidence.importance_sampling.proposals.defensive import Defensive
from ppl_vae.evidence.importance_sampling.proposals.guide import Guide
from ppl_vae.evidence.importance_sampling.proposals.refitted import Refitted
from ppl_vae.evidence.importance_sampling.proposals.student import StudentT
from ppl_vae.evidence.importance_sampling.proposals.widened import Widened
from ppl_vae.evidence.running.proposal import Proposal, ProposalOnData, check_proposal

__all__ = [
    "Defensive",
    "Guide",
    "Proposal",
    "ProposalOnData",
    "Refitted",
    "StudentT",
    "Widened",
    "check_proposal",
]
