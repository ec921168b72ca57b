"""Read, write, download and name weights files."""
