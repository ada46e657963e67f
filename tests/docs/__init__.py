"""The documents: every example on a page runs, every command line in them exists, and they make a site."""
