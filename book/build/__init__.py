"""Running the notebooks and building the site."""
