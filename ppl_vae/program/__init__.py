"""A Pyro (model, guide) pair as per-datum log densities: the one idea that everything else is built on.

This is the only room that touches `pyro.poutine`. What it promises to the rest:

* the axis convention ``(S, N, *event)``: samples, data, event;
* log weights summed over the sites *inside* a datum and never over data;
* nothing scaled, subsampled or shared between data ever becomes a weight: it is refused, by name;
* no program reads or writes another one's parameters, whatever the parameters are called.
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
