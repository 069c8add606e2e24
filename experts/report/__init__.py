"""What an expert folder says of its expert: report.json, the table, the page, the card."""

from .card import card
from .content import SCORE_TITLES, Evidence, make_report, report_table, show

__all__ = ["SCORE_TITLES", "Evidence", "card", "make_report", "report_table", "show"]
