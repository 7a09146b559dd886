"""Batches drawn ahead of time, in one background thread."""

from reverie.feeds.feed import Feed, check_buffer, drawing

__all__ = ["Feed", "check_buffer", "drawing"]
