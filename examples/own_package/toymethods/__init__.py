"""Methods for clipdense in a package of their own."""
