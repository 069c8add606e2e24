"""What an expert folder says of its expert: report.json, the table, the page, the card."""

from .card import card
from .content import Evidence, make_report
from .files import read_report, write_report
from .table import report_table
from .words import SCORE_TITLES, show

__all__ = ["SCORE_TITLES", "Evidence", "card", "make_report", "read_report", "report_table", "show", "write_report"]
