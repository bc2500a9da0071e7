"""What the pages show: figures, pictures and what a reader can move."""
