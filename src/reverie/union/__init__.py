"""Several buffers, or files, drawn from as one.

A union owns no step. It asks its parts, each at a moment of that part's own, and promises:

- Every window has the probability that the sampler gives it in the whole, exactly, also while parts are written to.
- No lock is held across parts: while one answers, the others go on.

How: part i has a mass w_i, say its number of windows. Of so many tries, each falls to part i in proportion to an
envelope u_i >= w_i. The part looks at its mass w_i at that moment, lets a try succeed with probability w_i / u_i, and
draws in the same moment. What succeeded has exactly the distribution of the whole; what did not is tried again. A part
whose mass has grown beyond its envelope says so, and the round is taken back.
"""

from reverie.union.part import Answer, Later, LocalPart, Part, Request, all_said
from reverie.union.union import Union

__all__ = ["Answer", "Later", "LocalPart", "Part", "Request", "Union", "all_said"]
