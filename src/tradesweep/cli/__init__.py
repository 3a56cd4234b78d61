"""The command line: one file a command. It imports typer alone; what a command needs, it imports when it runs."""
