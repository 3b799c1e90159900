"""The row of one measure, where the others go on whatever becomes of it."""

from collections.abc import Mapping
from typing import Any

from shaketable.errors import InputError
from shaketable.measures.measure import MEASURES, SCHEMA, measurements
from shaketable.study import Study


def measured_row(study: Study, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The row of :func:`measurements` for one measure; what it says of bad input is a reason.

    Args:
        study: the network with its data.
        name: of the measure.
        arguments: of the measure.

    Returns: the columns of :func:`measurements`.
    """
    try:
        return measurements(study, name, {name: arguments}).row(0, named=True)
    except InputError as error:
        kind = MEASURES[name]
        known = {"measure": name, "symbol": kind.symbol, "direction": kind.direction, "about": kind.about}
        said = {"paper": kind.paper, "status": "unavailable", "reason": str(error).rstrip(".")}
        return dict.fromkeys(SCHEMA) | known | said
