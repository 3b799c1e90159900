"""One self-contained HTML file about a network: which layers hold it up, how critical each is, what bounds its error."""

from shaketable.report.page import write_report
from shaketable.report.results import Bounds, Cells, Measures

__all__ = ["Bounds", "Cells", "Measures", "write_report"]
