from fastconv.cli import app

app(prog_name="fastconv")
