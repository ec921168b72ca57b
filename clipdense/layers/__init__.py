"""Building blocks of the towers; torch only."""
