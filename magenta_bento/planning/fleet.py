"""How many servers a demand needs.

Each server has slots, a queue of its own, and a share of the arrivals that a load balancer
draws at random, so that each server's arrivals are random too. Live sessions are spread evenly
and hold a slot for as long as they are open; the other slots make the pieces.

Invariant: a fleet that is returned meets its target, and one server fewer would not.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from magenta_bento.audio.formats import FRAME_S, frames_for
from magenta_bento.engine.stream_spec import LOOKAHEAD_FRAMES
from magenta_bento.errors import Unplannable
from magenta_bento.planning.queueing import Station

MOST_SERVERS = 10_000


@dataclass(frozen=True)
class Server:
    """One server: a device and its slots.

    Attributes:
      frame_s: Seconds of a frame while 1, 2, … all slots are taken.
      frames_per_step: Its ``FRAMES_PER_STEP``.
    """

    frame_s: tuple[float, ...]
    frames_per_step: int

    @property
    def slots(self) -> int:
        return len(self.frame_s)

    def holding_frames(self, music_s: float) -> int:
        """For how many frames of its batch a piece holds its slot.

        A piece takes whole steps, the silent first frame included. It holds its slot for one step
        more, because a slot becomes free when the audio of its last step has been fetched, and by
        then the next step is under way.
        """
        steps = math.ceil((frames_for(music_s) + LOOKAHEAD_FRAMES) / self.frames_per_step) + 1
        return steps * self.frames_per_step

    def holding_s(self, music_s: float, busy_slots: int) -> float:
        """Seconds that a piece holds its slot while ``busy_slots`` slots are taken."""
        return self.holding_frames(music_s) * self.frame_s[busy_slots - 1]


@dataclass(frozen=True)
class Demand:
    """The load on the whole fleet.

    Attributes:
      arrivals_per_s: Pieces that are requested per second, as files.
      music_s: Length of a piece, seconds of music.
      live: Live sessions that are open at once.
    """

    arrivals_per_s: float
    music_s: float
    live: int = 0


@dataclass(frozen=True)
class Target:
    """The service level that the fleet has to reach.

    Attributes:
      wait_s: The longest wait for a slot, seconds, that ``quantile`` of all pieces may have.
      quantile: A share of all pieces, 0 to 1.
      utilisation: The largest share of a server's speed that may be used, 0 to 1.
    """

    wait_s: float
    quantile: float
    utilisation: float


class Constraint(StrEnum):
    """What a fleet can be too small for."""

    NONE = "none"
    LIVE = "live"
    UTILISATION = "utilisation"
    WAIT = "wait"


@dataclass(frozen=True)
class Fleet:
    """A number of equal servers under a demand.

    Attributes:
      servers: The number of servers.
      server: Each of the servers.
      demand: The load on all of them together.
    """

    servers: int
    server: Server
    demand: Demand

    @property
    def live_slots(self) -> int:
        """Slots of the fullest server that live sessions hold."""
        return math.ceil(self.demand.live / self.servers)

    @property
    def piece_slots(self) -> int:
        """Slots of that server that are left for pieces."""
        return self.server.slots - self.live_slots

    @cached_property
    def station(self) -> Station:
        """The queue of that server.

        Raises:
          Unplannable: Live sessions leave no slot.
        """
        if self.piece_slots < 1:
            raise Unplannable(f"{self.live_slots} live sessions leave no slot for pieces")
        rates = [
            busy / self.server.holding_s(self.demand.music_s, self.live_slots + busy)
            for busy in range(1, self.piece_slots + 1)
        ]
        return Station(self.demand.arrivals_per_s / self.servers, rates)

    @property
    def offered_erlangs(self) -> float:
        """Arrivals times the time that a piece holds its slot when all slots are taken."""
        full_s = self.server.holding_s(self.demand.music_s, self.server.slots)
        return self.demand.arrivals_per_s * full_s

    def first_violation(self, target: Target) -> Constraint:
        """The first part of the target that the fleet misses; ``NONE`` if it meets all."""
        if self.live_slots + (1 if self.demand.arrivals_per_s else 0) > self.server.slots:
            return Constraint.LIVE
        if not self.demand.arrivals_per_s:
            return Constraint.NONE
        if self.station.utilisation > target.utilisation:
            return Constraint.UTILISATION
        if self.station.wait_quantile_s(target.quantile) > target.wait_s:
            return Constraint.WAIT
        return Constraint.NONE


def smallest_fleet(server: Server, demand: Demand, target: Target) -> Fleet:
    """The fleet of the fewest servers that meets the target.

    Raises:
      Unplannable: The demand is nothing, a full batch is too slow for live sessions, or not even
        ``MOST_SERVERS`` servers are enough.
    """
    if not demand.arrivals_per_s and not demand.live:
        raise Unplannable("nothing is asked for: give --arrivals, --live or both")
    if demand.live and server.frame_s[-1] > FRAME_S:
        raise Unplannable(
            f"live sessions need a frame in {FRAME_S * 1e3:g} ms or less, and with all"
            f" {server.slots} slots taken it takes {server.frame_s[-1] * 1e3:.1f} ms"
        )

    def enough(servers: int) -> bool:
        return Fleet(servers, server, demand).first_violation(target) is Constraint.NONE

    counts = range(1, MOST_SERVERS + 1)
    found = bisect.bisect_left(counts, True, key=enough)
    if found == len(counts):
        raise Unplannable(f"not even {MOST_SERVERS:,} servers are enough")
    return Fleet(counts[found], server, demand)


def binding_constraint(fleet: Fleet, target: Target) -> Constraint:
    """What one server fewer would be too small for; ``NONE`` if there is only one server."""
    if fleet.servers == 1:
        return Constraint.NONE
    return Fleet(fleet.servers - 1, fleet.server, fleet.demand).first_violation(target)
