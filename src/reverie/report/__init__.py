"""The report: one HTML file about a buffer or a replay file, to look at what an agent experienced.

The page needs no network and no server. It tells what is in the buffer, lists the episodes, plays those that fit, and
shows what is drawn and what is left out. A file is read as a reader reads it, also while somebody writes to it.
"""

from reverie.report.notebook import html_of_batch, html_of_buffer, show
from reverie.report.page import report
from reverie.report.run import Curves, Group, run_page

__all__ = ["Curves", "Group", "html_of_batch", "html_of_buffer", "report", "run_page", "show"]
