"""A buffer whose shards are actors of Ray: many processes write, several draw, on one machine or on many.

Ray moves the bytes, places the actors and starts them again. This room promises:

- What is drawn has the distribution of the whole, exactly, as a union's draws have.
- A step that was acknowledged is in a replay file, once, whatever process was killed.
- Nobody waits without an end: an actor that does not answer is named.
"""

from reverie.ray.sharded import ShardedBuffer, attach
from reverie.ray.writer import Writer

__all__ = ["ShardedBuffer", "Writer", "attach"]
