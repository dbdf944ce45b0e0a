"""A Pyro (model, guide) pair as per-datum log densities; all other packages use a pair through `Program`.

This is the only package that uses `pyro.poutine`. It guarantees:

* the axis convention ``(S, N, *event)``: samples, data, event;
* log weights are summed over the sites of a datum, and never over data;
* a site that is scaled, subsampled or shared between data is refused, by name;
* a program does not read or write another program's parameters, even if they have the same names.
"""

from ppl_vae.program.data import Data, Latents, device_of, num_data, take, to_device
from ppl_vae.program.parameters import expose_parameters
from ppl_vae.program.program import Program
from ppl_vae.program.sites import Site, Sites
from ppl_vae.program.unconstrained import Coordinates, Densities

__all__ = [
    "Coordinates",
    "Data",
    "Densities",
    "Latents",
    "Program",
    "Site",
    "Sites",
    "device_of",
    "expose_parameters",
    "num_data",
    "take",
    "to_device",
]
