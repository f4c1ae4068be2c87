"""What the doctor found."""

from rich.table import Table
from rich.text import Text

from fastconv.doctor import Finding
from fastconv.tables.common import plain_table


def findings(found: list[Finding]) -> Table:
    table = plain_table("fastconv doctor")
    for column in ("", "", "found", "what, or how to get it"):
        table.add_column(column, overflow="fold")
    topic = ""
    for finding in found:
        if topic and finding.topic != topic:
            table.add_section()
        lacking = Text("no", style="red" if finding.needed else "yellow")
        table.add_row(
            finding.topic if finding.topic != topic else "",
            finding.name,
            Text("yes", style="green") if finding.found else lacking,
            Text(finding.detail),
        )
        topic = finding.topic
    return table
