"""A plan in words and as JSON.

Invariant: both have the same figures, and every figure has its unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from magenta_bento.errors import Unplannable
from magenta_bento.planning import roofline
from magenta_bento.planning.case import Case, ComputedDevice, alternatives
from magenta_bento.planning.fleet import Constraint, Fleet, binding_constraint

HOURS_PER_MONTH = 730  # a year's twelfth
SECONDS_PER_HOUR = 3_600


@dataclass(frozen=True)
class Price:
    """What a fleet costs, in the currency of the price of one server.

    Attributes:
      fleet_per_hour: Of all servers, for an hour.
      fleet_per_month: Of all servers, for ``HOURS_PER_MONTH`` hours.
      per_hour_of_music: Of all servers, for each hour of music that they make.
    """

    fleet_per_hour: float
    fleet_per_month: float
    per_hour_of_music: float


@dataclass(frozen=True)
class Change:
    """The outcome of the same plan with one thing changed.

    Attributes:
      change: What is changed, in words.
      servers: How many servers that takes; None if no fleet meets the target.
      why: Why no fleet does, if none does.
    """

    change: str
    servers: int | None
    why: str | None = None


class Report:
    """The plan for one case: figures, what binds, and what else could be tried.

    Args:
      case: What is planned.

    Raises:
      Unplannable: No fleet meets the case's target.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.fleet: Fleet = case.fleet

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """Name and value, for people."""
        fleet, server = self.fleet, self.fleet.server
        source = "computed" if isinstance(self.case.device, ComputedDevice) else "measured"
        rows: list[tuple[str, ...]] = [
            ("servers", f"{fleet.servers:,}"),
            ("slots of each", f"{server.slots}"),
            ("a frame, all slots taken", f"{server.frame_s[-1] * 1e3:.1f} ms, {source}"),
        ]
        if fleet.demand.live:
            rows.append(("live sessions of each", f"{fleet.live_slots} at most"))
        if fleet.demand.arrivals_per_s:
            rows += self._queue_rows()
        if price := self.price:
            rows += [
                ("price", f"{price.fleet_per_hour:,.2f} an hour"),
                ("", f"{price.fleet_per_month:,.2f} a month of {HOURS_PER_MONTH} hours"),
                ("", f"{price.per_hour_of_music:,.4f} for an hour of music"),
            ]
        return rows

    def _queue_rows(self) -> Iterator[tuple[str, ...]]:
        station, case = self.fleet.station, self.case
        quantile = f"{case.target.quantile:.4g}"
        yield "offered load", f"{self.fleet.offered_erlangs:,.1f} erlangs"
        yield "busy", f"{station.utilisation:.0%}"
        yield "have to wait", f"{station.wait_probability:.2%}"
        yield "wait, mean", f"{station.mean_wait_s:.2f} s"
        yield (
            f"wait, quantile {quantile}",
            f"{station.wait_quantile_s(case.target.quantile):.2f} s",
        )
        yield "then made in", f"{station.mean_in_slot_s:.2f} s"
        yield (
            "find the queue full",
            f"{station.queue_length_probability(case.queue_bound):.2g}",
        )

    @property
    def sentence(self) -> str:
        """What binds the size of the fleet, and the time of the device's frames, in words."""
        return " ".join([self._fleet_sentence(), *self._device_sentence()])

    def _fleet_sentence(self) -> str:
        fleet, target = self.fleet, self.case.target
        fewer = fleet.servers - 1
        servers = f"{fewer:,} server{'s' if fewer > 1 else ''}"
        constraint = binding_constraint(fleet, target)
        if constraint is Constraint.NONE:
            return "One server is enough."
        if constraint is Constraint.LIVE:
            return f"Live sessions bind: {servers} would not have enough slots for them."
        station = Fleet(fewer, fleet.server, fleet.demand).station
        if constraint is Constraint.UTILISATION:
            return (
                f"Load binds: {servers} would be {station.utilisation:.0%} busy,"
                f" and {target.utilisation:.0%} are allowed."
            )
        return (
            f"The wait binds: with {servers} the {target.quantile:.4g} quantile would be"
            f" {station.wait_quantile_s(target.quantile):.2f} s,"
            f" and {target.wait_s:g} s are allowed."
        )

    def _device_sentence(self) -> Iterator[str]:
        device = self.case.device
        if isinstance(device, ComputedDevice):
            time = roofline.frame_time(device.gpu, device.work, self.fleet.server.slots)
            yield f"The largest part of a frame's time is {time.bottleneck}."

    @property
    def price(self) -> Price | None:
        """None if no price was given."""
        if self.case.price_per_hour is None:
            return None
        per_hour = self.fleet.servers * self.case.price_per_hour
        demand = self.fleet.demand
        music = demand.arrivals_per_s * demand.music_s + demand.live  # hours in an hour
        return Price(per_hour, per_hour * HOURS_PER_MONTH, per_hour / music)

    @property
    def changes(self) -> list[Change]:
        """The outcomes of the alternatives to this case."""
        return [_evaluated(change, case) for change, case in alternatives(self.case)]

    def text(self, table: Callable[[Sequence[tuple[str, ...]]], str]) -> str:
        """The plan as a text for people.

        Args:
          table: Lays rows of cells out in columns.
        """
        changes = [
            (f"  {c.change}", f"none: {c.why}" if c.servers is None else f"{c.servers:,}")
            for c in self.changes
        ]
        return (
            f"{self.case.device}\n\n{table(self.rows)}\n\n{self.sentence}\n\n"
            f"Servers if one thing were changed:\n{table(changes)}"
        )

    @property
    def as_json(self) -> dict[str, Any]:
        """The plan as a JSON object for machines; times are in seconds."""
        fleet, case = self.fleet, self.case
        answer: dict[str, Any] = {
            "device": str(case.device),
            "computed": isinstance(case.device, ComputedDevice),
            "demand": asdict(case.demand),
            "target": asdict(case.target),
            "servers": fleet.servers,
            "slots": fleet.server.slots,
            "live_slots": fleet.live_slots,
            "full_frame_s": fleet.server.frame_s[-1],
            "binds": self.sentence,
            "queue": None,
            "price": asdict(self.price) if self.price else None,
            "changes": [asdict(change) for change in self.changes],
        }
        if fleet.demand.arrivals_per_s:
            station = fleet.station
            answer["queue"] = {
                "offered_erlangs": fleet.offered_erlangs,
                "utilisation": station.utilisation,
                "wait_probability": station.wait_probability,
                "mean_wait_s": station.mean_wait_s,
                "wait_quantile_s": station.wait_quantile_s(case.target.quantile),
                "mean_in_slot_s": station.mean_in_slot_s,
                "queue_full_probability": station.queue_length_probability(case.queue_bound),
            }
        return answer


def _evaluated(change: str, case: Case) -> Change:
    try:
        return Change(change, case.fleet.servers)
    except Unplannable as why:
        return Change(change, None, str(why))
