"""One folder a method; a method never imports another."""
