"""One self-contained HTML file that says which layers hold a network up."""

from shaketable.report.page import write_report

__all__ = ["write_report"]
