"""The page that people leave open: what `federation status` shows, drawn, and kept up to date.

Rendered here with autoescape, for what it shows is partly text that callers chose; the files that
browsers load beside it are in files/ and are sent as they are. Everything is read-only. The
template engine is imported when the page is first asked for.
"""
