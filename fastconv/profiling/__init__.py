"""Where a network's time goes, layer by layer, in torch and in fastconv.

`measure.profile` fills a record of plain data (`record.Profile`); `reports` writes it as a page, as
Markdown, as JSON and as a trace.
"""
