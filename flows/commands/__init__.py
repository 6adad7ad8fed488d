"""The commands that look at, continue and move runs; one module each, registered in flows/cli.py."""
