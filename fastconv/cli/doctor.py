"""fastconv doctor: what is built and found on this machine."""

from dataclasses import asdict

import typer

import fastconv.tables as tables
from fastconv.cli.common import Json, app, fail, output, print_json
from fastconv.doctor import examine


@app.command("doctor")
def doctor_command(as_json: Json = False) -> None:
    """Show what is built and found on this machine, and how to get the rest."""
    findings = examine()
    if as_json:
        print_json({"findings": [asdict(finding) for finding in findings]})
    elif output.is_terminal:
        output.print(tables.findings(findings))
    else:  # a command to copy is in one piece
        typer.echo(tables.as_text(tables.findings(findings)))
    lacking = [finding for finding in findings if finding.needed and not finding.found]
    if lacking:
        fail("; ".join(f"no {finding.name}: {finding.detail}" for finding in lacking))
