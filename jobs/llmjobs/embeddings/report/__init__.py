"""The report of a refresh: what is read for it, how it is drawn, and the page."""
